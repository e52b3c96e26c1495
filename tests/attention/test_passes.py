"""Where passes stand, whatever calls the model and whatever cache it writes: positions are computed in the test."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache

from mmhall._transformers.calls import CACHE
from mmhall.attention import ATTENTION, SELF_ATTENTION, Block, Frame, Op, active
from mmhall.errors import ModelError
from mmhall.generation._settings import Settings
from mmhall.strategies import Branch, Session, strategy
from tests.attention.sites import Write
from tests.attention.tower import Edit, waved
from tests.generation.reference import QUIET, REQUESTS, ours, theirs
from tests.jobs import opened, run

pytestmark = QUIET

NEW = 6


class Note(Op):
    """Notes where each call stands, its keys and the weights of its newest rows."""

    kinds = ATTENTION

    def __init__(self, kinds=None, layers=None):
        self.kinds = kinds or self.kinds
        self.layers, self.calls, self.seen = layers, [], []

    def rows(self, call):
        return call.newest

    def see(self, call, rows, probs):
        self.calls.append(call)
        self.seen.append(probs)

    def passes(self, layer=None):
        """Step, start, rows, first column and columns, of each call in a layer."""
        first = self.calls[0].layer if layer is None else layer
        return [
            (call.step, call.start, call.count, call.offset, call.key.shape[2])
            for call in self.calls
            if call.layer == first
        ]


class Hide(Op):
    """Hides some columns from the newest rows' sight, wherever they stand."""

    kinds = SELF_ATTENTION

    def bias(self, call):
        columns = torch.arange(call.key.shape[2]) + call.offset
        hides = (columns % 3 == 1) & (columns < call.start + call.count - 2)
        return torch.zeros(len(columns)).masked_fill(hides, -30.0)[None, None, None]


def generate(name, ops, count=2, **more):
    """What a model says through transformers' own loop, with ops."""
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:count])
    length = inputs["input_ids"].shape[1]
    with active(adapter.plan(ops), length):
        out = adapter.model.generate(
            **inputs, do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0, **more
        )
    return out[:, -NEW:]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama", "qwen3_5", "paligemma"])
def test_a_static_cache_is_read_and_steered_as_a_dynamic_one(name):
    """Weights of the newest rows, tokens under a bias, and states that are written; columns not yet written weigh 0."""
    plain = generate(name, [])
    try:
        alone = generate(name, [], cache_implementation="static")
    except RuntimeError:
        pytest.skip("this version of transformers has no static cache for the family: it fails without ops, too")
    assert torch.equal(alone, plain)
    for steering in [], [Hide()], [Write("out", "mlp", layers={1})]:
        dynamic, static = Note(), Note()
        wanted = generate(name, [dynamic, *steering])
        found = generate(name, [static, *steering], cache_implementation="static")
        assert torch.equal(found, wanted)
        assert torch.equal(wanted, plain) != bool(steering)
        assert [one[:4] for one in static.passes()] == [one[:4] for one in dynamic.passes()]
        assert len({one[4] for one in static.passes()}) == 1 < len({one[4] for one in dynamic.passes()})
        for got, probs in zip(static.seen, dynamic.seen, strict=True):
            columns = probs.shape[-1]
            torch.testing.assert_close(got[..., :columns], probs, rtol=1e-5, atol=1e-5)
            assert not got[..., columns:].any()


class Far(Op):
    """A bias."""

    def bias(self, call):
        columns = torch.arange(call.key.shape[2]) + call.offset
        return (-4.0 * (columns % 3 == 1))[None, None, None]


class Everywhere(Op):
    """Edits all rows of all passes alike, so that reading them once or again makes no difference."""

    writes = True

    def rows(self, call):
        return torch.arange(call.count)


class Sharp(Everywhere):
    """Scores."""

    def edit_scores(self, call, rows, scores):
        return scores * 0.3


class Flat(Everywhere):
    """Weights."""

    def edit_probs(self, call, rows, probs):
        return probs.sqrt()


class Loud(Op):
    """Head outputs."""

    def edit_output(self, call, output):
        return output * torch.linspace(0.2, 1.8, output.shape[2])[:, None]


OPS = {
    "bias": Far,
    "scores": Sharp,
    "weights": Flat,
    "outputs": Loud,
    "states": lambda: Write("attn", "mlp", "out", layers={1}),
    "features": lambda: Edit("features", waved),
}


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "paligemma"])
def test_every_kind_of_op_steers_alike_whatever_the_cache(name):
    """A dynamic cache, a static one, and none; kept and dropped columns are refused by name, see their own tests."""
    plain = generate(name, [])
    for kind, make in OPS.items():
        wanted = generate(name, [make()])
        assert not torch.equal(wanted, plain), kind
        for cache in {"cache_implementation": "static"}, {"use_cache": False}:
            assert torch.equal(generate(name, [make()], **cache), wanted), (kind, cache)


def test_sliding_layers_of_a_static_cache_are_refused_where_columns_are_asked_for():
    """Full layers are not, nor are states, whose rows stand where they stand."""
    with pytest.raises(ModelError, match="the positions in a sliding layer are unknown with a static cache"):
        generate("gemma3", [Note()], cache_implementation="static")
    full = Note(kinds=frozenset({"full"}))
    write = Write("out", layers={0})
    wanted = generate("gemma3", [full, write])
    visits, passes = write.visits.copy(), full.passes()
    full.calls.clear()
    write.visits.clear()
    assert torch.equal(generate("gemma3", [full, write], cache_implementation="static"), wanted)
    assert [one[:4] for one in full.passes()] == [one[:4] for one in passes]
    assert [(v.step, v.start, v.count) for v in write.visits] == [(v.step, v.start, v.count) for v in visits]


def test_a_quantised_cache_is_read_and_steered():
    """In eight bits, which needs no further package; older versions of transformers have no such cache without one."""
    from transformers import QuantizedCache

    adapter = ours("llava")
    try:
        plain, own, steered = (QuantizedCache("fp8", adapter.model.config) for _ in range(3))
    except ValueError:
        pytest.skip("this transformers has no such cache without a further package")
    note, inputs = Note(), adapter.inputs(REQUESTS[:2])
    length = inputs["input_ids"].shape[1]
    wanted = theirs("llava").generate(
        **inputs, **{CACHE: plain}, do_sample=False, max_new_tokens=NEW, pad_token_id=0, eos_token_id=None
    )
    found = generate("llava", [note], eos_token_id=None, **{CACHE: own})
    assert torch.equal(found, wanted[:, length:])
    assert note.passes() == expected(length, NEW)
    assert not torch.equal(generate("llava", [Hide()], eos_token_id=None, **{CACHE: steered}), found)


def test_a_cache_with_an_encoder_of_text_is_refused():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with torch.no_grad(), active(adapter.plan([Note()])), pytest.raises(ModelError, match="EncoderDecoderCache"):
        adapter.decoder(input_ids=inputs["input_ids"], **{CACHE: cache})


def expected(length, new, window=None):
    """Step, start, rows, first column and columns of each pass of a loop over so many tokens."""
    passes = [(0, 0, length, 0, length)]
    for step in range(1, new):
        held = length + step if window is None else min(length + step, window)
        passes.append((step, length + step - 1, 1, length + step - held, held))
    return passes


WINDOWS = {"gemma3": "sliding", "llava_phi3": "sliding", "llama4": "chunked"}


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"use_cache": False}], ids=str)
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama", "qwen3_5", "gemma3", "llava_phi3", "llama4"])
def test_passes_of_transformers_own_loop_stand_where_they_stand(name, settings):
    """Greedy, with beams, and without a cache, where every pass reads everything."""
    if name == "llama4" and "num_beams" in settings:
        pytest.skip("transformers cannot search with its pictures")
    adapter, note = ours(name), Note(SELF_ATTENTION)
    generate(name, [note], count=1, early_stopping="never" if "num_beams" in settings else None, **settings)
    length = adapter.inputs(REQUESTS[:1])["input_ids"].shape[1]
    for layer in sorted({call.layer for call in note.calls}):
        if settings.get("use_cache", True):
            kind = adapter.kinds[layer]
            window = adapter.decoder.config.sliding_window if kind == "sliding" else None
            window = adapter.decoder.config.attention_chunk_size if kind == "chunked" else window
            assert note.passes(layer) == expected(length, NEW, window)
        else:
            assert note.passes(layer) == [(t, 0, length + t, 0, length + t) for t in range(NEW)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "mllama", "gemma3", "llava_phi3", "llama4"])
def test_key_columns_are_at_the_positions_that_a_call_tells(name):
    """Each holds what a pass over the whole sequence with no cache holds there; so in a branch that is padded."""
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[1:2])
    blind = adapter.without_image(inputs)
    notes, tokens = (Note(SELF_ATTENTION), Note(SELF_ATTENTION)), torch.arange(100, 100 + NEW)[None]
    session = Session([notes[0]], [Branch(blind, [notes[1]])], combine=lambda step: step.main)
    with torch.inference_mode():
        _, rows = opened(adapter, inputs, session, Settings(max_new_tokens=NEW + 1).resolved(adapter.generator))
        for token in tokens.T:
            rows.step(token)
        for part, note in zip((inputs, blind), notes, strict=True):
            whole, longer = Note(SELF_ATTENTION), adapter.append_answer(part, tokens)
            with active(adapter.plan([whole])):
                adapter.model_for(longer)(**longer, use_cache=False)
            keys = {call.layer: call.key for call in whole.calls}
            length = part["input_ids"].shape[1]
            assert {call.layer for call in note.calls} == set(keys)
            assert [one[:3] for one in note.passes()] == [one[:3] for one in expected(length, NEW + 1)]
            for call in note.calls:
                first = max(0, -call.offset)
                at = slice(call.offset + first, call.offset + call.key.shape[2])
                assert at.stop == call.start + call.count
                torch.testing.assert_close(call.key[:, :, first:], keys[call.layer][:, :, at], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "gemma3", "llama4"])
def test_tokens_tried_and_read_anew_stand_where_they_stand(name):
    """Steps, siblings tried and kept or dropped, a copy that is taken back and rereads an answer."""
    adapter, note = ours(name), Note(SELF_ATTENTION)
    inputs = adapter.inputs(REQUESTS[:2])
    length = inputs["input_ids"].shape[1]
    session = Session([note], search=lambda decoding: None)
    config = Settings(max_new_tokens=12).resolved(adapter.generator)

    def latest():
        call = note.calls[-1]
        facts = call.step, call.start, call.count, call.answer, call.reread
        assert call.offset + call.key.shape[2] == call.start + call.count
        assert {(c.step, c.start, c.count) for c in note.calls} == {facts[:3]}
        owners = None if call.owners is None else call.owners.tolist()
        note.calls.clear()
        return facts, owners

    with torch.inference_mode():
        _, rows = opened(adapter, inputs, session, config)
        assert latest() == ((0, 0, length, False, False), None)
        begun = rows.taken(torch.tensor([1]))
        rows.step(torch.tensor([90, 91]))
        assert latest() == ((1, length, 1, False, False), None)
        rows.select(torch.tensor([1, 0, 1]))
        rows.split(torch.tensor([[70, 71], [72, 73], [74, 75]]))
        assert latest() == ((2, length + 1, 2, True, False), [1, 0, 1])
        rows.keep(torch.tensor([2, 1]), torch.tensor([1, 0]))
        rows.step(torch.tensor([80, 81]))
        assert latest() == ((3, length + 2, 1, False, False), [1, 0])
        rows.split(torch.tensor([[70, 71, 72]] * 2))
        assert latest() == ((4, length + 3, 3, True, False), [1, 0])
        rows.keep(torch.tensor([0, 1]), None)
        rows.step(torch.tensor([82, 83]))
        assert latest() == ((4, length + 3, 1, False, False), [1, 0])
        assert rows.said.tolist() == [[91, 75, 80, 82], [90, 72, 81, 83]]
        begun.reread(torch.tensor([[91, 75, 80]]), begun.memory)
        assert latest() == ((3, length, 3, True, False), [1])
        begun.step(torch.tensor([82]))
        assert latest() == ((4, length + 3, 1, False, False), [1])
        assert begun.said.tolist() == [[91, 75, 80, 82]]
        torch.testing.assert_close(begun.logits[0][0], rows.logits[0][0], rtol=1e-4, atol=2e-4)


class Pull(Op):
    """Lets every row look at one position, if it sees it."""

    def __init__(self, position):
        self._position = position

    def bias(self, call):
        columns = torch.arange(call.key.shape[2]) + call.offset
        return 20.0 * (columns == self._position)[None, None, None].float()


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_passes_of_operas_search_stand_where_they_stand(name):
    """It tries candidates, and goes back: every pass begins where the answer stands that it goes on from."""
    adapter, note = ours(name), Note(frozenset({"full"}))
    inputs = adapter.inputs(REQUESTS[:1])
    length, kinds = inputs["input_ids"].shape[1], set()
    config, watch = Settings(max_new_tokens=20, num_beams=2).resolved(adapter.generator), (Pull(length + 11), note)
    config.min_new_tokens = 20
    run(adapter, inputs, strategy("opera", num_attn_candidates=3, threshold=1), config, watch=watch)
    for call in note.calls:
        candidates = call.where.frame.candidates
        kinds.add("prompt" if call.prefill else "tried" if candidates else "anew" if call.count > 1 else "step")
        assert call.offset == 0
        assert call.key.shape[2] == call.start + call.count
        if call.prefill:
            assert (call.step, call.start, call.count) == (0, 0, length)
        elif candidates:
            assert (call.count, call.start) == (3, length + call.step - 1)
        else:
            assert call.step == call.key.shape[2] - length
            assert call.start == (length if call.count > 1 else length + call.step - 1)
    assert kinds >= {"prompt", "tried", "anew"}


@pytest.mark.parametrize("name", ["llava", "mllama", "qwen3_5", "llava_phi3"])
def test_what_is_read_a_second_time_says_so(name):
    """The last token, where a prompt's can be forgotten; else all of it."""
    adapter, note = ours(name), Note(SELF_ATTENTION)
    inputs = adapter.inputs(REQUESTS[:2])
    length = inputs["input_ids"].shape[1]
    config = Settings(max_new_tokens=3).resolved(adapter.generator)
    with torch.inference_mode():
        _, rows = opened(adapter, inputs, Session([note], reread=True), config)
        rows.step(torch.tensor([90, 91]))
    calls = [call for call in note.calls if call.layer == note.calls[0].layer]
    count = 1 if adapter.can_drop_last_token else length
    assert [(call.step, call.start, call.count, call.reread) for call in calls] == [
        (0, 0, length, False),
        (0, length - count, count, True),
        (1, length, 1, False),
    ]
    assert adapter.can_drop_last_token == ("linear" not in adapter.kinds)


def test_steps_need_the_length_of_the_prompt():
    """Prompts are read without it; of a later pass nobody knows where the answer began."""
    adapter, note = ours("llava"), Note()
    inputs = adapter.inputs(REQUESTS[:1])
    cache = DynamicCache()
    with torch.no_grad(), active(adapter.plan([note])):
        adapter.model(**inputs, **{CACHE: cache})
        assert {call.step for call in note.calls} == {0}
        adapter.model(input_ids=torch.tensor([[90]]), **{CACHE: cache})
        with pytest.raises(ModelError, match="the length of the prompt is unknown"):
            _ = note.calls[-1].step


def test_nothing_of_a_plan_or_a_pass_can_be_assigned():
    adapter = ours("llava")
    plan, tap = adapter.plan([Write("out", layers={1})]), Note()
    block = Block(plan, 3)
    with pytest.raises(FrozenInstanceError):
        plan.ops = (tap,)
    with pytest.raises(TypeError):
        plan.modules[0, "out"] = adapter.layers[0]
    with pytest.raises(FrozenInstanceError):
        block.prompt = 4
    with pytest.raises(FrozenInstanceError):
        Frame((block,)).answer = True
    inputs = adapter.inputs(REQUESTS[:1])
    with torch.no_grad(), active(adapter.plan([tap])):
        adapter.model(**inputs)
    with pytest.raises(FrozenInstanceError):
        tap.calls[0].where.end = 7
    with pytest.raises(FrozenInstanceError):
        tap.calls[0].layer = 7
