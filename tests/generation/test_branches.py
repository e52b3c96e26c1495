"""Branches stepped together against each one read by itself; caches joined against caches left alone."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, DynamicLayer, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer, LinearAttentionLayer

import mmhall
from mmhall._transformers import caches
from mmhall._transformers.cache_layers import RoomyLayer
from mmhall.adapters._base import Request
from mmhall.errors import CompositionError
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._run import plan_batch, prepare_inputs
from mmhall.generation._settings import Settings
from mmhall.generation._state import join, prefill
from mmhall.strategies import Branch, Session
from tests.generation.reference import EMPTY, FAMILIES, QUIET, REQUESTS, in_turn, ours, said, separately

pytestmark = QUIET

SPECS = ("vcd", "vdd(free='none+unk')", "vcd(alpha=2.5, beta=0.3, noise_step=900)")
LAYERS = {
    "llava": {DynamicLayer},
    "llava_phi3": {DynamicSlidingWindowLayer},
    "cohere2_vision": {DynamicLayer, DynamicSlidingWindowLayer},
    "gemma3": {DynamicLayer, DynamicSlidingWindowLayer},
    "gemma4": {DynamicLayer, DynamicSlidingWindowLayer, EMPTY},
    "idefics2": {DynamicSlidingWindowLayer},
    "llama4": {DynamicLayer, DynamicSlidingWindowLayer},
    "qwen2_vl": {DynamicLayer},
    "qwen3_5": {DynamicLayer, LinearAttentionLayer},
    "mllama": {DynamicLayer},
}
WINDOWS = {"idefics2": 48}


def tail(adapter, prompt, length):
    """The last positions of a prompt without a picture: chat formats alone are longer than some windows."""
    inputs = adapter.inputs([Request(prompt * 9)])
    assert inputs["input_ids"].shape[1] > length
    return {key: value[:, -length:] for key, value in inputs.items()}


def read(adapter, batch):
    return prefill(PlannedBatch(prepare_inputs(adapter, batch, Settings(max_new_tokens=4).resolved(adapter.generator))))


@pytest.mark.parametrize(("name", "spec"), in_turn(FAMILIES, SPECS))
def test_branches_step_as_if_each_was_read_by_itself(name, spec, monkeypatch):
    """Also of Mllama, whose image-free branch has no image keys to be joined."""
    monkeypatch.setattr("tests.generation.reference.LENGTH", 4)
    adapter, changed = ours(name), []
    for request in REQUESTS[:2]:
        inputs, method = adapter.inputs([request]), mmhall.strategy(spec)
        answer = said(adapter, inputs, method, max_new_tokens=4)
        assert answer == [separately(adapter, inputs, method.fitted(adapter).prepare(adapter, inputs))]
        changed.append(answer != said(adapter, inputs, max_new_tokens=4))
    assert any(changed), "the branches change nothing"


@pytest.mark.parametrize("name", FAMILIES)
def test_image_free_branches_step_in_one_pass_wherever_they_can_be_joined(name, monkeypatch):
    adapter, sizes = ours(name), []
    monkeypatch.setattr(adapter.generator.generation_config, "eos_token_id", [10**6])  # no row ends early and leaves
    hook = adapter.layers[0].register_forward_hook(lambda _, args, out: sizes.append(len(args[0])))
    try:
        said(adapter, adapter.inputs(REQUESTS[:2]), "vdd", max_new_tokens=3)
    finally:
        hook.remove()
    assert sizes[:2] == [2, 2]
    assert set(sizes[2:]) == ({2} if name == "mllama" else {4})


@pytest.mark.parametrize("name", LAYERS)
def test_joined_states_step_as_each_does_alone(name):
    """Shorter than the window of sliding layers, soon to fill it, and longer; one of the states has two rows."""
    adapter = ours(name)
    batches = [adapter.inputs(requests) for requests in (REQUESTS[:1], REQUESTS[2:], REQUESTS[1:2])]
    if name != "mllama":
        batches[:2] = (tail(adapter, "What?", WINDOWS.get(name, 24) - length) for length in (15, 4))
        batches[1] = adapter.stack([batches[1], batches[0]])
    with torch.inference_mode():
        alone = [read(adapter, batch) for batch in batches]
        kinds = {RoomyLayer if kind is DynamicLayer else kind for kind in LAYERS[name]}
        assert {type(layer) for layer in alone[0].cache.layers} == kinds
        (together,) = join([read(adapter, batch) for batch in batches])
        torch.testing.assert_close(together.logits, torch.cat([state.logits for state in alone]))
        for step in range(18):
            tokens = torch.arange(100, 104) + 7 * step
            together.read(tokens[:, None])
            for state, own in zip(alone, tokens.split([1, 2, 1]), strict=True):
                state.read(own[:, None])
            wanted = torch.cat([state.logits for state in alone])
            torch.testing.assert_close(together.logits, wanted, rtol=0, atol=2e-4, msg=f"{name}, step {step}")


@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_repeated_and_reordered_with_their_caches(name):
    adapter = ours(name)
    order = torch.tensor([1, 0, 1])
    with torch.inference_mode():
        plain, moved = (read(adapter, adapter.inputs(REQUESTS[:2])) for _ in range(2))
        moved.select([order])
        for step in range(3):
            tokens = torch.tensor([90, 91]) + step
            plain.read(tokens[:, None])
            moved.read(tokens[order][:, None])
        torch.testing.assert_close(moved.logits, plain.logits[order], rtol=0, atol=2e-4)
        assert moved.ids.tolist() == plain.ids[order].tolist()


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen3_5", "mllama"])
def test_selecting_main_rows_takes_their_branches_along(name):
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:2])
    config = Settings(max_new_tokens=4).resolved(adapter.generator)
    order, tokens = torch.tensor([1, 1, 0]), torch.tensor([90, 91])
    with torch.inference_mode():
        branches = [adapter.without_image(inputs), adapter.with_pixels(inputs, lambda pixels: pixels * 0.5)]
        plain, moved = (
            DecodeBatch(
                plan_batch(adapter, inputs, (), config),
                [plan_batch(adapter, branch, (), config) for branch in branches],
            )
            for _ in range(2)
        )
        moved.select(order)
        plain.step(tokens)
        moved.step(tokens[order])
    assert len(plain.logits) == len(moved.logits) == 3
    for whole, part in zip(plain.logits, moved.logits, strict=True):
        torch.testing.assert_close(part, whole[order], rtol=0, atol=2e-4)
    assert (plain.logits[0] - plain.logits[1]).abs().max() > 0.1


def filled(lengths, kind=DynamicCache):
    """A cache whose layers hold as many keys as told."""
    cache = kind()
    for layer, length in enumerate(lengths):
        cache.update(torch.ones(1, 1, length, 2), torch.ones(1, 1, length, 2), layer)
    return cache


def test_layers_across_are_joined_only_where_equally_many_image_keys_are_held():
    """The second layer holds image keys."""
    assert caches.can_join([filled([5, 9]), filled([3, 9])])
    assert not caches.can_join([filled([5, 9]), filled([3, 8])])
    assert not caches.can_join([filled([5, 9]), filled([3])])
    assert caches.can_join([filled([5, 5]), filled([3, 3])])


def test_caches_of_an_unknown_kind_are_not_joined():
    class Other(DynamicLayer):
        pass

    class Odd(DynamicCache):
        pass

    strange = filled([5])
    strange.layers[0].__class__ = Other
    static = StaticCache(config=ours("llava").model.config.get_text_config(), max_cache_len=8)
    assert not caches.can_join([filled([5]), strange])
    assert not caches.can_join([strange, strange])
    assert not caches.can_join([filled([5], Odd), filled([5], Odd)])
    assert not caches.can_join([static, static])


def test_joined_keys_stand_at_the_right_end():
    short, long = filled([2]), filled([4])
    joined = caches.join([short, long])
    assert joined.layers[0].keys[:, 0, :, 0].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert joined.layers[0].values.shape == (2, 1, 4, 2)
    assert joined.get_seq_length() == 4


def test_one_state_stays_as_it_is():
    adapter = ours("llava")
    with torch.inference_mode():
        state = read(adapter, adapter.inputs(REQUESTS[:1]))
    assert join([state]) == [state]


def test_branches_nobody_combines_are_refused():
    with pytest.raises(CompositionError, match="no `combine` to read them with"):
        Session(branches=[Branch({})])
