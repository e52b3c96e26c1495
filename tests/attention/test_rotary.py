"""The rotary embedding that is measured on a decoder: how vectors turn, along which axes, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from mmhall.attention import Call, Op, Rotary, active
from mmhall.errors import ModelError
from tests.generation.reference import QUIET, REQUESTS, endless
from tests.zoo import ZOO

pytestmark = QUIET


@pytest.mark.parametrize(("interleaved", "turned"), [(False, [-3.0, 2, 1, 4, 9]), (True, [-2.0, 1, 3, 4, 9])])
def test_a_quarter_turn_of_a_toy(interleaved, turned):
    """(1, 2, 3, 4, 9): one pair turns by 90 degrees, (1, 3) or (1, 2); the other does not turn, the 9 has no pair."""
    rotary = Rotary(torch.tensor([[math.pi / 2, 0.0]]), interleaved)
    got = rotary.turn(torch.tensor([1.0, 2, 3, 4, 9]), rotary.angles(torch.tensor([1])))
    torch.testing.assert_close(got, torch.tensor(turned))


def test_angles_of_three_axes_add_up_and_a_shift_moves_all():
    """Pairs of 0.5, 0.25 and 0.125 along one axis each, at (2, 4, 8); of four axes the first one is left out."""
    rotary = Rotary(torch.diag(torch.tensor([0.5, 0.25, 0.125])))
    assert rotary.angles(torch.tensor([2, 4, 8])).tolist() == [1, 1, 1]
    assert rotary.angles(torch.tensor([99, 2, 4, 8])).tolist() == [1, 1, 1]
    assert rotary.shift(torch.tensor(4)).tolist() == [2, 1, 0.5]


AXES = {  # the axis of each pair, and whether pairs are neighbours
    "llava": ([0] * 8, False),
    "qwen2_5_vl": ([0, 0, 1, 1, 1, 2, 2, 2], False),
    "qwen3_vl": ([0, 1, 2, 0, 1, 2, 0, 0], False),  # axes take turns
    "glm4v": ([0, 0, 1, 2], True),  # half of a head turns
}


@pytest.mark.parametrize("name", AXES)
def test_axes_and_pairs_are_those_of_the_family(name):
    rotary, (axes, interleaved) = endless(name).rotary, AXES[name]
    assert (rotary.frequencies > 0).int().argmax(dim=0).tolist() == axes
    assert (rotary.frequencies > 0).sum(dim=0).tolist() == [1] * len(axes)
    assert rotary.interleaved == interleaved


class Turned(Op):
    """Turns the keys of layer 0 back by their own positions, and compares those of one token."""

    layers = frozenset({0})

    def __init__(self, rotary):
        self.rotary, self.keys = rotary, torch.empty(0)

    def remask(self, call: Call) -> None:
        angles = self.rotary.angles(call.where.position_ids)
        self.keys = self.rotary.turn(call.key, -angles[:, None])


@pytest.mark.parametrize("name", AXES)
def test_position_ids_of_a_pass_turn_equal_tokens_back_to_equal_keys(name):
    """In a padded batch: the letters "e" of the prompts, wherever they stand."""
    adapter = endless(name)
    inputs, op = adapter.inputs(REQUESTS[:2]), Turned(adapter.rotary)
    with torch.no_grad(), active(adapter.plan([op])):
        adapter.model(**adapter_positions(adapter, inputs))
    (letter,) = adapter.tokenizer("e", add_special_tokens=False)["input_ids"]
    keys = op.keys.transpose(1, 2)[(inputs["input_ids"] == letter) & inputs["attention_mask"].bool()]
    assert len(keys) > 4
    torch.testing.assert_close(keys, keys[:1].expand_as(keys), rtol=0, atol=1e-4)


def adapter_positions(adapter, inputs):
    """Inputs with the position ids that `generate` gives, where the model does not make them itself."""
    ids = inputs["attention_mask"].cumsum(1) - 1
    return {**inputs, "position_ids": ids.clamp_min(0)} if len(adapter.rotary.frequencies) == 1 else dict(inputs)


@pytest.mark.parametrize(("name", "reason"), [("blip_2", "it has none"), ("gemma3", "or one for each kind of layer")])
def test_decoders_without_one_are_refused(name, reason):
    with pytest.raises(ModelError, match=reason):
        endless(name).rotary  # noqa: B018


def test_one_that_changes_with_the_length_or_differs_between_layers_is_refused():
    from mmhall.adapters import adapter_for

    adapter = adapter_for(*ZOO["llava"]())
    rotary = adapter.rotary
    assert rotary is adapter.rotary
    del adapter.rotary
    adapter.decoder.config.rope_parameters["rope_type"] = "dynamic"
    with pytest.raises(ModelError, match="kind 'dynamic' changes with the length"):
        adapter.rotary  # noqa: B018
    adapter.decoder.config.rope_parameters["rope_type"] = "default"
    forward = adapter.layers[1].self_attn.forward

    def without(*args, position_embeddings, **kwargs):
        still = torch.ones_like(position_embeddings[0]), torch.zeros_like(position_embeddings[1])
        return forward(*args, position_embeddings=still, **kwargs)

    adapter.layers[1].self_attn.forward = without
    with pytest.raises(ModelError, match="do not turn with their positions as those of a rotary embedding do in all"):
        adapter.rotary  # noqa: B018
    adapter.close()
