"""Keys and values that later passes find changed, against transformers' own loop with a cache that a test changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from mmhall._transformers import caches
from mmhall._transformers.calls import CACHE
from mmhall.attention import ATTENTION, Op, active
from mmhall.errors import CompositionError
from mmhall.generation._job import StepScores
from mmhall.generation._settings import Settings
from mmhall.strategies import Branch, Session, strategy
from tests.generation.reference import QUIET, REQUESTS, cut, ends, ours, theirs
from tests.jobs import decode, opened

pytestmark = QUIET

NEW = 6
FULL = ("llava", "qwen2_5_vl")
STRENGTH = 3.0  # far beyond the mean, for a difference that shows


def smoothed(columns, strength):
    """The newest of three columns or more, (B, KV, K, D), mixed with the mean of the last three."""
    return (1 - strength) * columns[:, :, -1:] + strength * columns[:, :, -3:].mean(dim=2, keepdim=True)


class Smooth(Op):
    """Keeps the newest column of each pass smoothed; where the last three stand, `source` says."""

    remembers = True

    def __init__(self, strength=STRENGTH, layers=None, source="call", kinds=None):
        self._strength, self._source, self.calls = strength, source, []
        self.layers = None if layers is None else frozenset(layers)
        self.kinds = kinds or Op.kinds

    def keep(self, call, keys, values):
        self.calls.append((call.layer, call.step, tuple(keys.shape), tuple(values.shape)))
        if self._strength == 0:
            return None
        kept = [self._newest(call, *pair) for pair in (("keys", call.key, keys), ("values", call.value, values))]
        return kept[0], kept[1]

    def _newest(self, call, what, columns, own):
        name = f"smooth.{what}.{call.layer}"
        if self._source == "memory" and name in call.memory:
            columns = torch.cat([call.memory[name][:, :, -2:], own], dim=2)
        newest = smoothed(columns, self._strength)
        if self._source == "memory":
            call.memory[name] = torch.cat([columns[:, :, -3:-1], newest], dim=2)
        return torch.cat([own[:, :, :-1], newest], dim=2)


class Smoothing(LogitsProcessor):
    """Changes a cache behind transformers' back, between two passes."""

    def __init__(self, cache, layers):
        self._cache, self._layers = cache, layers

    def __call__(self, input_ids, scores):
        for index in self._layers:
            layer = self._cache.layers[index]
            layer.keys[:, :, -1:] = smoothed(layer.keys, STRENGTH)
            layer.values[:, :, -1:] = smoothed(layer.values, STRENGTH)
        return scores


def plainly(name, inputs, layers, new=NEW, **more):
    """What transformers' own loop says, and its logits at every step."""
    model = theirs(name)
    cache = DynamicCache(config=model.config.get_text_config())
    asked = {
        "do_sample": False,
        "max_new_tokens": new,
        "pad_token_id": 0,
        "eos_token_id": list(ends(name)),
        "output_logits": True,
        "return_dict_in_generate": True,
        **more,
    }
    smoothing = LogitsProcessorList([Smoothing(cache, layers)])
    out = model.generate(**inputs, **{CACHE: cache}, logits_processor=smoothing, **asked)
    return out.sequences[:, inputs["input_ids"].shape[1] :], out.logits


def config(adapter, **settings):
    return Settings(**{"max_new_tokens": NEW, **settings}).resolved(adapter.generator)


def endless(adapter):
    found = config(adapter)
    found.min_new_tokens = NEW
    return found


def steps(adapter, inputs, *ops, **session):
    kept = StepScores("scores", logits=[])
    said = decode(adapter, inputs, Session(ops, **session), endless(adapter), keep=kept)
    return said, kept.logits


@pytest.mark.parametrize(
    ("name", "layers", "source"),
    [
        ("llava", None, "memory"),
        ("qwen2_5_vl", {1}, "memory"),
        ("qwen2_5_vl", None, "call"),
        pytest.param("llava_next", {1}, "call", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_kept_columns_are_those_of_a_cache_that_is_changed(name, layers, source):
    """A batch padded on the left, logits of every step; and each prompt alone."""
    adapter = ours(name)
    assert set(adapter.kinds) == {"full"}
    inputs = adapter.inputs(REQUESTS[:2])
    every = range(len(adapter.layers)) if layers is None else layers
    wanted, logits = plainly(name, inputs, every, min_new_tokens=NEW)
    said, got = steps(adapter, inputs, Smooth(layers=layers, source=source))
    assert torch.equal(said, wanted)
    for mine, other in zip(got, logits, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    _, plain = steps(adapter, inputs)
    torch.testing.assert_close(got[0], plain[0], rtol=0, atol=0)
    assert float((got[1] - plain[1]).abs().max()) > 1e-3
    for index, request in enumerate(REQUESTS[:2]):
        (alone,), _ = steps(adapter, adapter.inputs([request]), Smooth(layers=layers, source=source))
        assert torch.equal(alone, said[index])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["call", "memory"])
@pytest.mark.parametrize("name", FULL)
def test_beams_with_kept_columns_are_transformers_own(name, source):
    adapter, beams = ours(name), {"num_beams": 3, "num_return_sequences": 2}
    for request in REQUESTS[:2]:
        inputs = adapter.inputs([request])
        wanted, _ = plainly(name, inputs, range(len(adapter.layers)), new=9, **beams)
        found = decode(adapter, inputs, Session([Smooth(source=source)]), config(adapter, max_new_tokens=9, **beams))
        assert [cut(row, ends(name)) for row in found.tolist()] == [cut(row, ends(name)) for row in wanted.tolist()]


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_what_is_handed_back_as_it_is_changes_no_bit(name):
    """No strength, or the same columns; each pass hands over the columns of its own tokens once a layer."""

    class Same(Smooth):
        def keep(self, call, keys, values):
            super().keep(call, keys, values)
            return keys, values

    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:2])
    said, plain = steps(adapter, inputs)
    length, depth = inputs["input_ids"].shape[1], len(adapter.layers)
    for op in Smooth(0), Same(0):
        again, got = steps(adapter, inputs, op)
        assert torch.equal(again, said)
        assert all(map(torch.equal, got, plain))
        heads = op.calls[0][2][1], op.calls[0][2][3]
        counts = [length] + [1] * (NEW - 1)
        shapes = [(2, heads[0], count, heads[1]) for count in counts]
        assert op.calls == [(i, t, shape, shape) for t, shape in enumerate(shapes) for i in range(depth)]


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_only_the_rows_of_the_ops_own_block_are_kept(name):
    """Stacked with the main rows, a branch is what transformers' loop says with a changed cache."""
    adapter = ours(name)
    inputs, parts = adapter.inputs(REQUESTS[:2]), []

    def combine(step):
        parts.append((step.main, step.branches[0]))
        return step.branches[0]

    said = decode(adapter, inputs, Session(branches=[Branch(inputs, [Smooth()])], combine=combine), endless(adapter))
    wanted, logits = plainly(name, inputs, range(len(adapter.layers)), min_new_tokens=NEW)
    assert torch.equal(said, wanted)
    for (_, branch), other in zip(parts, logits, strict=True):
        torch.testing.assert_close(branch, other.log_softmax(dim=-1), rtol=1e-5, atol=1e-4)
    smooth, parts = parts, []
    decode(adapter, inputs, Session(branches=[Branch(inputs)], combine=lambda step: combine(step)), endless(adapter))
    torch.testing.assert_close(smooth[1][0], parts[1][0], rtol=1e-5, atol=1e-4)


KINDS = {"gemma3": "sliding", "llava_phi3": "sliding", "llama4": "chunked"}


@pytest.mark.parametrize("name", KINDS)
def test_layers_that_drop_positions_are_refused(name):
    adapter = ours(name)
    layer = adapter.kinds.index(KINDS[name])
    with pytest.raises(CompositionError, match=f"layer {layer} cannot be replaced in a cache of kind Dynamic.*Window"):
        steps(adapter, adapter.inputs(REQUESTS[:1]), Smooth(layers={layer}))
    if "full" in adapter.kinds:
        steps(adapter, adapter.inputs(REQUESTS[:1]), Smooth(kinds=frozenset({"full"})))


def test_columns_of_a_picture_are_refused():
    """Mllama's cross layers hold positions of the picture: the newest token has none among them."""
    adapter = ours("mllama")
    with pytest.raises(CompositionError, match="layer 1 cannot be replaced: its columns are positions of the picture"):
        steps(adapter, adapter.inputs(REQUESTS[:1]), Smooth(kinds=ATTENTION))
    op = Smooth()
    steps(adapter, adapter.inputs(REQUESTS[:1]), op)
    assert {layer for layer, *_ in op.calls} == {0, 2}


def test_layers_that_read_the_keys_of_others_are_refused():
    adapter = ours("gemma4")
    layer = max(index for index, kind in enumerate(adapter.kinds) if kind == "full")
    assert layer in adapter.newest_only
    with pytest.raises(CompositionError, match="some layers of this model reuse those of earlier layers"):
        steps(adapter, adapter.inputs(REQUESTS[:1]), Smooth(layers={layer}))


def test_a_static_cache_and_none_are_refused():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])
    plan, length = adapter.plan([Smooth()]), inputs["input_ids"].shape[1]
    with active(plan, length), pytest.raises(CompositionError, match=r"layer 0 .* in a cache of kind StaticCache"):
        adapter.model.generate(**inputs, max_new_tokens=2, cache_implementation="static")
    with torch.no_grad(), active(plan, length), pytest.raises(CompositionError, match="in a cache of kind NoneType"):
        adapter.model(**inputs, use_cache=False)


def test_an_offloaded_cache_is_refused():
    """Simulated: transformers can only offload from an accelerator."""
    cache = DynamicCache()
    columns = torch.zeros(1, 2, 3, 4)
    cache.update(columns, columns, 0)
    cache.offloading = True
    with pytest.raises(CompositionError, match="layer 0 cannot be replaced in a cache of kind DynamicCache, offloaded"):
        caches.replace_newest(cache, 0, slice(0, 1), columns, columns)


def test_a_quantised_cache_is_refused():
    adapter = ours("llava")
    inputs, cache = adapter.inputs(REQUESTS[:1]), quantised(adapter)
    plan = adapter.plan([Smooth()])
    with active(plan, inputs["input_ids"].shape[1]), pytest.raises(CompositionError, match="kind QuantizedCache"):
        adapter.model.generate(**inputs, max_new_tokens=2, **{CACHE: cache})


def quantised(adapter):
    """A cache in eight bits, which needs no further package; older versions of transformers have none."""
    from transformers import QuantizedCache

    try:
        return QuantizedCache("fp8", adapter.model.config)
    except ValueError:
        pytest.skip("this transformers has no such cache without a further package")


@torch.inference_mode()
def test_an_answer_read_anew_is_smoothed_token_by_token():
    adapter, answers = ours("llava"), torch.tensor([[90, 97, 111], [110, 91, 102]])
    stepped, anew = (
        opened(adapter, adapter.inputs(REQUESTS[:2]), Session([Smooth(source="memory")]), config(adapter))[1]
        for _ in range(2)
    )
    for tokens in answers.T:
        stepped.step(tokens)
    anew.reread(answers)
    assert torch.equal(anew.logits[0], stepped.logits[0])


def test_tokens_tried_side_by_side_are_refused():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])
    session = strategy("opera").fitted(adapter).prepare(adapter, inputs)
    session = replace(session, ops=[*session.ops, Smooth()])
    with pytest.raises(CompositionError, match="while a search tries candidate tokens"):
        decode(adapter, inputs, session, config(adapter, num_beams=2, max_new_tokens=30))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda keys, values: (keys[:1], values[:1]),
        lambda keys, values: (keys[:, :1], values[:, :1]),
        lambda keys, values: (keys[:, :, -1:], values[:, :, -1:]),
        lambda keys, values: keys,
    ],
)
def test_kept_columns_of_another_shape_are_refused(wrong):
    class Wrong(Op):
        def keep(self, call, keys, values):
            return wrong(keys, values)

    adapter = ours("llava")
    with pytest.raises(CompositionError, match="`keep` must return keys and values of shapes"):
        decode(adapter, adapter.inputs(REQUESTS[:2]), Session([Wrong()]), config(adapter))
