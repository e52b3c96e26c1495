"""A budget of positions or memory: prompts wait until they fit, nothing exceeds it, answers are those of each alone."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from mmhall import LVLM
from mmhall._transformers.cache_sizes import bytes_now, layer_sizes
from mmhall.errors import GenerationError, OptionError
from mmhall.generation import Budget, _refilling as refilling, _together as together, make_recipe, queue
from mmhall.generation._budget import Load, count_positions, stages
from mmhall.generation._forecast import Forecast, Sample
from mmhall.generation._run import begin
from mmhall.generation._tensor_memory import TensorMemory
from mmhall.generation._threads import CallerContext
from tests.decoders.fitted import with_artifacts
from tests.decoders.test_contract import ACTIVE
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours
from tests.generation.test_leaving import EMPTY, spread
from tests.generation.test_refilling import Ends
from tests.zoo import ZOO

pytestmark = [QUIET, EMPTY, pytest.mark.usefixtures("clip", "detector")]

LENGTH = 9
PAIRS = [(request.images[0], request.prompt) for request in (*REQUESTS, *REQUESTS[::-1], *REQUESTS[1:3])]
CPU = torch.device("cpu")
DRAWN = {"do_sample": True}


def answered(adapter, pairs, spec, **settings):
    """What is said to each request, or the error."""
    lvlm = LVLM(adapter.model, adapter.processor)
    lvlm.adapter = adapter  # with its artifacts
    found = dict(lvlm.generate_many(pairs, spec, **{"max_new_tokens": LENGTH, **settings}))
    count = len(getattr(pairs, "requests", pairs))
    assert sorted(found) == list(range(count))
    return [found[number] for number in range(count)]


def said(answers):
    return [answer.token_ids for answer in answers]


@pytest.fixture
def held(monkeypatch):
    """The number of batches in each pass over answers, and rows and positions of each cache."""
    seen, step = [], together.step_together

    def spied(batches, tokens):
        step(batches, tokens)
        caches = {id(state): state for batch in batches for state, _ in batch.parts}.values()
        seen.append((len(batches), [tuple(state.ids.shape) for state in caches]))

    monkeypatch.setattr(refilling, "step_together", spied)
    return seen


@pytest.mark.parametrize(
    ("spec", "way"),
    [
        ("greedy", {}),
        ("vcd", {"do_sample": True}),
        ("kvsmooth", {}),
        ("vdd", {"num_return_sequences": 2, "do_sample": True}),
    ],
    ids=str,
)
def test_positions_stay_within_a_budget_and_answers_are_those_of_each_alone(spec, way, held):
    adapter = with_artifacts(ours("llava"))
    seeds = {"seeds": range(len(PAIRS))} if way else {}
    with Ends(adapter, None):
        free = said(answered(adapter, PAIRS, spec, **seeds, **way))
    with Ends(adapter, spread(free)):
        alone = said(answered(adapter, PAIRS, spec, batch_size=1, **seeds, **way))
        length = max(len(single["input_ids"][0]) for single in adapter.inputs(REQUESTS).singles) + LENGTH
        rows = (2 if spec in ("vcd", "vdd") else 1) * way.get("num_return_sequences", 1)
        held.clear()
        answers = answered(adapter, PAIRS, spec, max_tokens=3 * rows * length, **seeds, **way)
    assert said(answers) == alone
    assert all(sum(count * columns for count, columns in states) <= 3 * rows * length for _, states in held)
    assert max(sum(count for count, _ in states) for _, states in held) == 3 * rows
    assert max(batches for batches, _ in held) > 1, "nothing has joined"


def test_a_prompt_that_needs_more_positions_than_there_are_is_decoded_alone(held):
    adapter = ours("llava")
    answers = answered(adapter, PAIRS[:4], "vdd", max_tokens=5)
    assert all(count == 2 for _, states in held for count, _ in states)
    assert said(answers) == said(answered(adapter, PAIRS[:4], "vdd"))


@pytest.mark.parametrize("spec", ["greedy", "vcd", "vhr", "kvsmooth", "dola", "opera"])
@pytest.mark.slow
def test_memory_stays_within_a_budget_and_answers_are_those_of_each_alone(spec):
    """The budget is a half of what all prompts take at once."""
    adapter = with_artifacts(ours("llava"))
    alone = said(answered(adapter, PAIRS, spec, batch_size=1))
    one, whole = peak(adapter, PAIRS[:1], spec), peak(adapter, PAIRS, spec)
    budget = max(2 * one, whole // 2)
    with TensorMemory(CPU) as memory:
        answers = answered(adapter, PAIRS, spec, memory=budget)
    assert said(answers) == alone
    assert one < memory.peak <= 1.1 * budget


def peak(adapter, pairs, spec):
    with TensorMemory(CPU) as memory:
        answered(adapter, pairs, spec)
    return memory.peak


@pytest.mark.parametrize("spec", ["greedy", "vcd", "vdd", "vhr", "kvsmooth", "opera", "beam"])
@pytest.mark.slow
def test_what_is_predicted_from_one_prompt_is_what_several_take(spec):
    adapter, samples = with_artifacts(ours("llava")), {}
    pairs, settings = [PAIRS[0]] * 5, {"max_new_tokens": 40}
    recipe = make_recipe(adapter, spec, settings)
    with Ends(adapter, None):
        queued = refilling.refill(adapter, recipe, queue(pairs[:1], None, 1), Budget(1, memory=2**40), samples=samples)
        assert not any(one.error for one in queued)
        (sample,) = samples.values()
        predicted = Forecast(Budget(5, memory=2**40), samples, 40).predict(sample, [sample.length] * 5)
        with TensorMemory(CPU) as memory:
            list(refilling.refill(adapter, recipe, queue(pairs, None, 5), Budget(5), share=False))
    assert 0.9 < predicted / memory.peak < 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_of_a_cache_is_known_layer_by_layer(family):
    """After a step it is the memory that tensors take, with room to grow."""
    adapter = ours(family)
    with Ends(adapter, None):
        job = make_recipe(adapter, "greedy", {"max_new_tokens": 2}).job(adapter, adapter.inputs(REQUESTS[:2]))
        answers = begin(job)
    with torch.inference_mode():
        answers.choose()
        answers.rows.step(answers.tokens)
    ((state, _),) = answers.rows.parts
    sizes = layer_sizes(state.cache)
    taken = sum(2 * size.bytes(state.cache.get_seq_length()) for size in sizes)
    assert 0.95 * taken <= bytes_now(state.cache) <= taken


def test_a_prompt_that_takes_more_memory_than_there_is_fails_alone():
    """The second question is much longer than the others; the budget is what three of these take."""
    adapter = ours("llava")
    pairs = [PAIRS[0], (PAIRS[1][0], "What is that? " * 40), *PAIRS[2:5]]
    whole = answered(adapter, pairs, "greedy")
    budget = 3 * peak(adapter, PAIRS[:1], "greedy")
    answers = answered(adapter, pairs, "greedy", memory=budget)
    (failed,) = [number for number, each in enumerate(answers) if isinstance(each, GenerationError)]
    assert failed == 1
    assert f"more than the memory of {budget / 2**10:.1f}K" in str(answers[1])
    assert said(answers[:1] + answers[2:]) == said(whole[:1] + whole[2:])
    nothing = answered(adapter, PAIRS[:3], "opera", memory="1K")
    assert {str(each).partition(" about")[0] for each in nothing} == {"its answer takes"}


def test_a_batch_is_answered_as_its_requests_and_read_once(monkeypatch):
    adapter, read = ours("llava"), []
    batch = adapter.inputs(REQUESTS)
    pairs = [(list(request.images), request.prompt) for request in REQUESTS]
    wanted = said(answered(adapter, pairs, "vdd"))
    monkeypatch.setattr(type(adapter), "read", lambda *_: read.append(1))
    for more in ({"batch_size": 2}, {"max_tokens": 400}, {"memory": "1G"}):
        assert said(answered(adapter, batch, "greedy", **more)) == said(answered(adapter, batch, "greedy"))
    assert read == []
    monkeypatch.undo()
    assert said(answered(adapter, batch, "vdd", memory="1G")) == wanted


def test_answers_that_are_read_together_know_the_longest_of_them():
    adapter = ours("llava")
    with Ends(adapter, None):
        free = said(answered(adapter, PAIRS, "greedy"))
    with Ends(adapter, spread(free)):
        answers = answered(adapter, PAIRS, "greedy", batch_size=3)
    assert len({answer.usage.longest for answer in answers}) > 1
    assert all(answer.usage.passes == answer.usage.longest - 1 for answer in answers)
    assert all(answer.usage.new_tokens <= answer.usage.longest for answer in answers)
    assert round(sum(a.usage.rows for a in answers)) == sum(a.usage.new_tokens - 1 for a in answers)


def test_further_sequences_count_among_the_longest():
    adapter = ours("llava")
    several = {"num_return_sequences": 4, "do_sample": True, "max_new_tokens": 6}
    with Ends(adapter, None):
        free = said(answered(adapter, PAIRS[:1], "greedy", **several))[0]
    with Ends(adapter, [free[0]]):  # the first sequence ends at once
        (answer,) = answered(adapter, PAIRS[:1], "greedy", **several)
    lengths = [each.usage.new_tokens for each in (answer, *answer.others)]
    assert lengths[0] < max(lengths)
    assert {each.usage.longest for each in (answer, *answer.others)} == {max(lengths)}
    assert answer.usage.passes == max(lengths) - 1


def test_samples_are_those_of_the_same_scores_and_number_format():
    model, processor = ZOO["llava"]()
    lvlm = LVLM(model, processor)

    def sampled(**settings):
        list(lvlm.generate_many(PAIRS[:2], "greedy", memory="1G", max_new_tokens=5, **settings))
        return [max(sample.held for sample in samples.values()) for samples in lvlm._samples.values()]

    assert len(sampled(scores=1)) == len(sampled(scores=1, seed=7)) == 1
    first, every = sampled(scores=True)
    assert every > first
    lvlm.model.double()
    assert len(sampled(scores=True)) == 3


def test_a_prompt_that_ends_before_a_pass_is_no_sample():
    adapter = ours("llava")
    lvlm = LVLM(adapter.model, adapter.processor)
    with Ends(adapter, None):
        first = said(answered(adapter, PAIRS[:1], "greedy"))[0][0]
    with Ends(adapter, [first]):
        list(lvlm.generate_many(PAIRS[:1], "greedy", memory="1G", max_new_tokens=5))
    assert [*lvlm._samples.values()] == [{}]


def test_stages_are_those_at_which_rows_leave():
    """Two rows at 10 positions with 5 to come, three at 4 with 9: at most 5 rows at 15, then three at 13."""
    loads = [Load(2, 10, 5, held=1), Load(3, 4, 9, held=10)]
    assert [(one.rows, one.columns, one.held) for one in stages(loads)] == [(5, 15, 11), (3, 13, 10)]
    assert count_positions(loads) == 75


def test_the_memory_of_tensors_is_counted_while_they_exist_in_every_thread():
    """A view takes nothing; what is computed in place neither; half precision takes two bytes a value."""
    with TensorMemory(CPU) as memory:
        first = torch.ones(1000)
        assert (memory.now, memory.peak) == (4000, 4000)
        first[:10].add_(1)
        second = first.half()
        del first
        assert (memory.now, memory.peak) == (2000, 6000)
        memory.restart()
        thread = threading.Thread(target=CallerContext(CPU).wrap(lambda: torch.zeros(100)))
        thread.start()
        thread.join()
        assert (memory.now, memory.peak) == (2000, 2400)
    del second
    assert memory.now == 0


@pytest.mark.parametrize(
    ("given", "counted"),
    [(1000, 1000), ("500", 500), ("1K", 1024), ("1.5 MB", 1.5 * 2**20), ("6G", 6 * 2**30), ("2GiB", 2**31)],
)
def test_memory_is_given_as_bytes_or_as_text(given, counted):
    assert Budget.of("x", 1, None, given).memory == counted


@pytest.mark.parametrize(
    "more",
    [{"memory": "6 apples"}, {"memory": 0}, {"memory": 1.5}, {"memory": True}, {"max_tokens": 0}, {"max_tokens": "9"}],
    ids=str,
)
def test_what_is_no_budget_is_refused(more):
    adapter = ours("llava")
    (name,) = more
    with pytest.raises(OptionError, match=f"generate_many: {name} must be"):
        LVLM(adapter.model, adapter.processor).generate_many([], **more)


def test_a_sample_of_a_shorter_prompt_grows_with_the_length():
    """A prompt half as long again: held and step grow by the length, reading by its square; rows by the prompts."""
    sample = Sample(length=100, columns=110, rows=2, read=1000, held=40, step=8)
    assert sample.load(3, 150, 20) == Load(rows=6, columns=160, left=20, held=180, step=36)
    assert sample.reading(3, 150) == 6750
    assert sample.load(1, 50, 20) == Load(rows=2, columns=60, left=20, held=40, step=8)


@pytest.mark.parametrize(
    "spec", ["greedy", "beam", "vhr", "kvsmooth", "opera", ACTIVE["cgd"]], ids=lambda spec: spec[:8]
)
@pytest.mark.slow
def test_the_caches_of_a_batch_are_freed_when_it_is_answered(spec):
    """And not when Python collects cycles: until then, others might have no room."""
    adapter = with_artifacts(ours("llava"))
    lvlm = LVLM(adapter.model, adapter.processor)
    lvlm.adapter = adapter
    lvlm.generate_batch(PAIRS[:2], spec, max_new_tokens=4)  # tables that are kept for all batches
    gc.collect()
    gc.disable()
    try:
        with TensorMemory(CPU) as memory:
            lvlm.generate_batch(PAIRS[:2], spec, max_new_tokens=4)
            assert memory.now == 0
            assert memory.peak > 0
    finally:
        gc.enable()
