"""A picture is encoded once; whatever could change what a tower computes is noticed."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from mmhall.adapters import adapter_for
from mmhall.adapters._base import Request
from mmhall.attention import PassCount, _features, count_passes, reuse_features
from mmhall.attention._features import KeptFeatures, TowerCall
from mmhall.generation._settings import Settings
from mmhall.lvlm import LVLM
from mmhall.strategies import strategy
from tests.generation.reference import FAMILIES, QUIET, picture
from tests.jobs import run
from tests.zoo import ZOO

pytestmark = QUIET
A, B, C = picture(40, 40, 4), picture(64, 32, 8), picture(40, 40, 2)
MIXED = {"gemma4", "mistral3"}  # their towers return one list for all pictures, without a grid


class Asked:
    """A fresh model, and how many rows the first layer of its tower has read."""

    def __init__(self, family="llava"):
        self.adapter = adapter_for(*ZOO[family]())
        self.read, self.features = 0, {}
        self.adapter.anatomy.vision.layers[0].register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, layer, args, kwargs):
        self.read += len([*args, *kwargs.values()][0])

    def __call__(self, *pairs, spec="greedy", reuse=True):
        """Answers, and the rows that were encoded for them."""
        self.read = 0
        method, chosen = strategy(spec), Settings(max_new_tokens=3)
        config = chosen.resolved(self.adapter.generator, method.beams)
        inputs = self.adapter.inputs([Request(text, (shown,)) for shown, text in pairs])
        with reuse_features(self.features) if reuse else nullcontext():
            return run(self.adapter, inputs, method, config).tolist(), self.read


TWO, OTHERS = ((A, "Is it a dog?"), (B, "What?")), ((B, "Is it?"), (C, "Where?"), (A, "Is it a dog?"))
QUICK = ("llava", "llava_next", "qwen2_5_vl", "mistral3")


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_strategies_in_turn_encode_a_picture_once(family):
    ask, plain = Asked(family), Asked(family)
    first, rows = ask(*TWO)
    assert rows == plain(*TWO, reuse=False)[1] > 0
    steered = ask(*TWO, spec="vhr")
    assert steered[1] == 0
    again, new = ask(*OTHERS)
    assert 0 < new <= plain(*OTHERS, reuse=False)[1] - (0 if family in MIXED else rows - 1)
    expected = [plain(*TWO, reuse=False), plain(*TWO, spec="vhr", reuse=False), plain(*OTHERS, reuse=False)]
    assert [first, steered[0], again] == [answers for answers, _ in expected]


def test_outside_the_context_all_is_encoded_anew():
    ask = Asked()
    ask(*TWO)
    assert ask(*TWO, reuse=False)[1] == 2
    assert ask(*TWO)[1] == 0


def test_a_picture_several_times_in_a_batch_is_encoded_once():
    ask = Asked()
    ask(*TWO)
    assert ask((C, "Is it?"), (C, "What is it?"), (A, "Is it?"), spec="vhr")[1] == 1


def test_one_other_value_of_a_pixel_is_another_picture():
    ask = Asked()
    inputs = ask.adapter.inputs([Request("Is it?", (A,))])
    with torch.inference_mode(), reuse_features({}):
        tower, pixels = ask.adapter.anatomy.vision.module, inputs["pixel_values"]
        changed = pixels.clone()
        changed[0, 0, 0, 0] += 1e-3
        outputs = [tower(one).last_hidden_state for one in (pixels, pixels, changed)]
        assert ask.read == 2
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[0], outputs[2])


def test_what_a_caller_changes_is_its_own():
    """An output edited in place leaves what is kept as it is."""
    ask = Asked()
    pixels = ask.adapter.inputs([Request("Is it?", (A,))])["pixel_values"]
    with torch.inference_mode(), reuse_features({}):
        tower = ask.adapter.anatomy.vision.module
        first = tower(pixels).last_hidden_state
        expected = first.clone()
        first.zero_()
        tower(pixels).last_hidden_state.zero_()
        assert torch.equal(tower(pixels).last_hidden_state, expected)
    assert ask.read == 1


def test_what_is_kept_ends_with_its_owner():
    ask = Asked()
    ask(*TWO)
    ask.features = {}
    assert ask(*TWO)[1] == 2


def test_with_ops_in_the_tower_pictures_are_encoded_under_them():
    ask, plain = Asked(), Asked()
    spec = "imbalance(alpha=9, beta=9)"
    ask(*TWO)
    edited, rows = ask(*TWO, spec=spec)
    assert rows == 2
    assert edited == plain(*TWO, spec=spec, reuse=False)[0]
    assert ask(*TWO)[1] == 0


def test_with_gradients_and_in_training_all_is_computed():
    ask = Asked()
    tower, pixels = ask.adapter.anatomy.vision.module, ask.adapter.inputs([Request("Is it?", (A,))])["pixel_values"]
    ask((A, "Is it?"))
    with reuse_features(ask.features):
        tower(pixels.requires_grad_()).last_hidden_state.sum().backward()
        assert pixels.grad is not None
        with torch.no_grad():
            tower.train()(pixels)
    assert ask.read == 3


def test_a_copy_of_a_model_computes_by_itself():
    ask = Asked()
    model, read = copy.deepcopy(ask.adapter.model), []
    with torch.no_grad():
        for part in model.get_encoder(modality="image").parameters():
            part.zero_()
    other = adapter_for(model, ask.adapter.processor)
    ask((A, "Is it?"))
    other.anatomy.vision.layers[0].register_forward_pre_hook(lambda layer, given: read.append(layer))
    inputs = other.inputs([Request("Is it?", (A,))])
    with reuse_features(ask.features):
        run(other, inputs, strategy("greedy"), Settings(max_new_tokens=2).resolved(other.generator))
    assert len(read) == 1


def test_the_last_adapter_restores_the_tower():
    ask = Asked()
    tower = ask.adapter.anatomy.vision.module
    second = adapter_for(ask.adapter.model, ask.adapter.processor)
    ask.adapter.close()
    assert "forward" in vars(tower)
    second.close()
    assert "forward" not in vars(tower)


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_forward_that_was_replaced_or_removed_meanwhile_stays_so(change):
    ask = Asked()
    tower = ask.adapter.anatomy.vision.module
    del tower.forward
    if change == "replaced":
        tower.forward = replaced = lambda *args: args
    ask.adapter.close()
    assert vars(tower).get("forward") is (replaced if change == "replaced" else None)


def test_no_more_is_kept_than_fits():
    """Three pictures of 40 bytes each, where 80 fit: the one that was not used for longest is encoded again."""
    read, layer = [], nn.Linear(3, 10)

    def forward(rows):
        read.append(len(rows))
        return layer(rows)

    kept, rows = KeptFeatures(most=80), torch.randn(3, 1, 3)

    def encode(*which):
        call = TowerCall.of([rows[list(which)][:, 0]], {})
        return kept.encode(forward, call)

    with torch.inference_mode():
        encode(0, 1)
        encode(0)
        encode(2)  # 1 goes
        encode(0, 2)
        assert read == [2, 1]
        torch.testing.assert_close(encode(1, 0), layer(rows[[1, 0], 0]))
        assert read == [2, 1, 1]
        assert kept._bytes == 80
        encode(2)
        assert read == [2, 1, 1, 1]


def test_a_picture_that_is_looked_up_costs_what_it_took(monkeypatch):
    """Two pictures together in 6 s, one alone in 2 s; looked up, each counts as often as it is shown."""
    clock = iter([0.0, 6.0, 10.0, 12.0])
    monkeypatch.setattr(_features, "perf_counter", lambda: next(clock))
    kept, rows, count = KeptFeatures(), torch.randn(3, 3), PassCount()

    def encode(*which):
        with torch.inference_mode(), count_passes(count):
            kept.encode(nn.Linear(3, 10), TowerCall.of([rows[list(which)]], {}))
        return count.looked_up

    assert [encode(0, 1), encode(2), encode(1), encode(2, 0, 0)] == [0.0, 0.0, 3.0, 11.0]


def test_each_strategy_bears_the_encoding_of_its_pictures(monkeypatch):
    lvlm, features, timed = LVLM(*ZOO["llava"]()), {}, _features._timed
    monkeypatch.setattr(_features, "_timed", lambda forward, call: (timed(forward, call)[0], 1000.0))
    with reuse_features(features):
        seconds = [
            sum(answer.usage.seconds for answer in lvlm.generate_batch(TWO, spec, max_new_tokens=2))
            for spec in ("greedy", "vhr")
        ]
        many = lvlm.generate_many(TWO, max_new_tokens=2)
        seconds.append(sum(answer.usage.seconds for _, answer in many))
    assert [round(each / 1000) for each in seconds] == [0, 1, 1]


def test_a_replaced_forward_stays():
    """As that of accelerate, which moves offloaded weights."""
    model, processor = ZOO["llava"]()
    tower = model.get_encoder(modality="image")
    tower.forward = replaced = lambda *args, **kwargs: type(tower).forward(tower, *args, **kwargs)
    adapter_for(model, processor).close()
    assert tower.forward is replaced
