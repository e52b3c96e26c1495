"""Of which patches an image token is made: what a change of one patch in the vision tower changes."""

from __future__ import annotations

import pytest
import torch

from mmhall.adapters import adapter_for
from mmhall.attention import EVERY, VISION, Op, active
from mmhall.errors import ModelError
from tests.attention.tower import REQUESTS
from tests.generation.reference import QUIET
from tests.zoo import ZOO

pytestmark = QUIET

UNKNOWN = {"gemma4", "llama4", "mistral3", "mllama", "idefics2", "blip_2", "instructblip"}


class Move(Op):
    """Moves the state of one patch where it leaves a layer of the tower."""

    kinds, sites = VISION, frozenset({"out"})

    def __init__(self, layer, patch, cls):
        self.layers, self._patch, self._cls = frozenset({layer}), patch, cls

    def edit_states(self, visit, states):
        self.shape = states.shape[0], states.shape[1] - self._cls
        moved = states[:, self._cls :].flatten(0, 1).clone()
        if self._patch is not None:
            moved[self._patch] += torch.linspace(-3, 3, moved.shape[-1])
        return torch.cat([states[:, : self._cls], moved.view(*self.shape, -1)], dim=1)


class Embeddings(Op):
    """Notes what enters the decoder."""

    layers, kinds = frozenset({0}), EVERY

    def see_states(self, visit):
        self.states = visit.states.clone()


def embedded(adapter, inputs, move):
    """The image tokens that enter the decoder, (tokens of all prompts, D)."""
    seen = Embeddings()
    with torch.no_grad(), active(adapter.plan([move, seen], inputs)):
        adapter.model(**inputs)
    return seen.states[adapter.image_mask(inputs["input_ids"])]


@pytest.mark.parametrize("name", [name for name in ZOO if name not in UNKNOWN])
def test_a_patch_changes_the_tokens_that_are_made_of_it(name):
    adapter = adapter_for(*ZOO[name]())
    assert adapter.merges_patches
    inputs, cls = adapter.inputs(REQUESTS), int(adapter.anatomy.has_cls)
    depth = len(adapter.anatomy.vision.layers)
    for layer in (depth - 1, depth - 2):  # some families project the states of the layer before the last
        still = Move(layer, None, cls)
        before = embedded(adapter, inputs, still)
        count = still.shape[0] * still.shape[1]
        if not torch.equal(before, embedded(adapter, inputs, Move(layer, count // 2, cls))):
            break
    seen = 0
    for patch in {0, 1, count // 3, count // 2, count - 1}:
        changed = (embedded(adapter, inputs, Move(layer, patch, cls)) - before).abs().amax(-1) > 1e-5
        value = torch.zeros(count)
        value[patch] = 1.0
        made = adapter.merge_patches(value.view(still.shape), inputs)
        assert torch.equal(made.nan_to_num(0) > 0, changed), patch
        seen += int(changed.any())
    assert seen


def test_the_mean_over_patches_is_that_of_a_constant():
    for name in ("llava", "gemma3", "llava_next", "qwen2_5_vl"):
        adapter = adapter_for(*ZOO[name]())
        inputs, still = adapter.inputs(REQUESTS), Move(0, None, int(adapter.anatomy.has_cls))
        embedded(adapter, inputs, still)
        made = adapter.merge_patches(torch.full(still.shape, 0.25), inputs)
        assert made.shape == (int(adapter.image_mask(inputs["input_ids"]).sum()),)
        torch.testing.assert_close(made[~made.isnan()], torch.full_like(made[~made.isnan()], 0.25))
        assert made.isnan().any() == (name == "llava_next")


def test_families_without_patches_say_so():
    for name in sorted(UNKNOWN & set(ZOO)):
        adapter = adapter_for(*ZOO[name]())
        assert not adapter.merges_patches, name
    with pytest.raises(ModelError, match="instructblip: it is unknown of which patches of the vision tower"):
        adapter_for(*ZOO["instructblip"]()).merge_patches(torch.zeros(1, 4), {})
