"""Columns that take turns: each says what it would say alone, and ends as it should whoever else fails or leaves."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter, sleep

import pytest

from mmhall.demo.compare import Column, compare
from mmhall.errors import MmhallError
from mmhall.generation._streaming import Stream
from mmhall.strategies import strategy
from tests.threads import own_threads

PROMPT = "Please describe this image in detail."
SPECS = ("greedy", "vhr+vdd", "opera")
NO_ROOM = 10**6  # more tokens than the model has positions for


def methods(*specs):
    return [strategy(spec) for spec in specs]


@pytest.mark.slow
def test_each_column_says_what_it_would_say_alone(embedded, scene, monkeypatch):
    monkeypatch.setattr("mmhall.demo.compare._UPDATE_EVERY", 0.0)
    told = list(compare(embedded, scene.image, PROMPT, methods(*SPECS), max_new_tokens=16))
    assert told[0] == tuple(Column(spec) for spec in SPECS)
    assert len(told) > 3
    for earlier, later in pairwise(told):
        assert all(b.text.startswith(a.text) for a, b in zip(earlier, later, strict=True) if b.state == "writing")
    for column, spec in zip(told[-1], SPECS, strict=True):
        alone = embedded.generate(scene.image, PROMPT, spec, max_new_tokens=16, uncertainty=True)
        assert (column.strategy, column.state, column.text) == (spec, "ended", alone.text)
        assert column.answer.token_ids == alone.token_ids
        assert column.answer.uncertainty.logprobs == pytest.approx(alone.uncertainty.logprobs, abs=1e-4)
        assert column.answer.usage.new_tokens == alone.usage.new_tokens
        assert (column.answer.usage.rows, column.answer.usage.passes) == (alone.usage.rows, alone.usage.passes)
        assert 0 < column.seconds == column.answer.usage.seconds


@pytest.mark.slow
def test_time_is_that_of_a_columns_own_steps(embedded, scene, monkeypatch):
    step, waits = Stream.step, []

    def late(stream):
        began = perf_counter()
        sleep(0.1)  # a busy machine
        waits.append(perf_counter() - began)
        return step(stream)

    monkeypatch.setattr(Stream, "step", late)
    began = perf_counter()
    *_, columns = compare(embedded, scene.image, PROMPT, methods("greedy", "beam"), max_new_tokens=4)
    assert sum(column.seconds for column in columns) + sum(waits) < perf_counter() - began
    for column in columns:
        assert 0 < column.reading_seconds < column.seconds


@pytest.mark.slow
def test_columns_grow_together(embedded, scene, monkeypatch):
    monkeypatch.setattr("mmhall.demo.compare._UPDATE_EVERY", 0.0)
    told = list(compare(embedded, scene.image, PROMPT, methods("greedy", "vdd"), max_new_tokens=12))
    assert any({column.state for column in columns} == {"writing"} for columns in told)
    assert all(
        abs(columns[0].steps - columns[1].steps) <= 1
        for columns in told
        if {column.state for column in columns} == {"writing"}
    )


@pytest.mark.slow
def test_a_strategy_that_fails_leaves_its_reason_and_the_others_finish(embedded, scene):
    specs = ("greedy", "vhr(layers='0:0')", "vcd")
    with pytest.raises(MmhallError) as caught:
        embedded.generate(scene.image, PROMPT, specs[1], max_new_tokens=8)
    *_, columns = compare(embedded, scene.image, PROMPT, methods(*specs), max_new_tokens=8)
    assert [column.state for column in columns] == ["ended", "failed", "ended"]
    assert columns[1].error == str(caught.value)
    assert columns[2].text == embedded.generate(scene.image, PROMPT, "vcd", max_new_tokens=8).text


def test_all_may_fail(embedded, scene):
    *_, columns = compare(embedded, scene.image, PROMPT, methods("greedy", "vcd"), max_new_tokens=NO_ROOM)
    assert [column.state for column in columns] == ["failed"] * 2
    assert all(column.error for column in columns)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 5])
def test_who_leaves_keeps_what_was_said(embedded, scene, steps):
    asked, threads = iter(range(10_000)), own_threads()

    def should_stop():
        return next(asked) > 3 * steps  # asked before each round and each step of two columns

    *_, columns = compare(embedded, scene.image, PROMPT, methods("greedy", "vdd"), should_stop, max_new_tokens=12)
    for column in columns:
        alone = embedded.generate(scene.image, PROMPT, column.strategy, max_new_tokens=12).text
        assert column.state == "stopped"
        assert alone.startswith(column.text)
        assert len(column.text) < len(alone)
        assert steps - 1 <= column.steps <= steps + 1
        assert (column.answer is not None) == (column.steps > 0)
        assert column.answer is None or column.answer.stopped_by == "stopped"
    assert own_threads() <= threads


def test_who_closes_early_leaves_no_threads(embedded, scene):
    threads = own_threads()
    told = compare(embedded, scene.image, PROMPT, methods(*SPECS), max_new_tokens=48)
    for _ in range(3):  # waiting, reading, and the first token of the first column
        next(told)
    assert own_threads() - threads
    told.close()
    assert own_threads() <= threads
    again = compare(embedded, scene.image, PROMPT, methods("greedy"), max_new_tokens=2)
    assert list(again)[-1][0].state == "ended"


def test_a_column_says_when_it_reads_the_prompt(embedded, scene):
    told = compare(embedded, scene.image, PROMPT, methods("greedy", "vdd"), max_new_tokens=2)
    states = [[column.state for column in columns] for columns in told]
    assert states[:5] == [
        ["waiting", "waiting"],
        ["reading", "waiting"],
        ["writing", "waiting"],
        ["writing", "reading"],
        ["writing", "writing"],
    ]
    assert states[-1] == ["ended", "ended"]
