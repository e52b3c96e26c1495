"""Streams: they compute when asked and never else, each on its own clock, and say what `generate` says."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter, sleep

import pytest

from tests.threads import own_threads

ASKED = ("What is this?", "vdd")
SETTINGS = {"max_new_tokens": 12}


@pytest.fixture
def steps(llava):
    """Counts how often the model predicted a token."""
    calls = []
    llava.model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_nothing_is_computed_before_the_first_step_nor_between_two(llava, pictures, steps):
    stream = llava.stream(pictures[0], *ASKED, max_new_tokens=300)
    threads = own_threads()
    assert steps == []
    for _ in range(3):
        stream.step()
        before = len(steps)
        sleep(0.05)
        assert len(steps) == before
    stream.close()
    assert own_threads() <= threads


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["close", "forget"])
def test_leaving_a_stream_stops_the_computation(llava, pictures, steps, leave):
    threads = own_threads()
    pieces = llava.stream(pictures[0], *ASKED, max_new_tokens=300)
    next(pieces)
    if leave == "close":
        pieces.close()
    del pieces
    assert len(steps) < 30
    assert own_threads() <= threads


@pytest.mark.slow
def test_streams_in_turn_say_what_each_says_alone(llava, pictures):
    specs = ("greedy", "vcd", "opera", "beam", "vhr")
    alone = [llava.generate(pictures[0], "What is this?", spec, **SETTINGS) for spec in specs]
    streams = [llava.stream(pictures[0], "What is this?", spec, **SETTINGS) for spec in specs]
    texts, going = [""] * len(specs), set(range(len(specs)))
    while going:
        for index in sorted(going):
            piece = streams[index].step()
            if piece is None:
                going.discard(index)
            else:
                texts[index] += piece
    assert [text.strip() for text in texts] == [answer.text for answer in alone]
    for stream, answer in zip(streams, alone, strict=True):
        assert replace(stream.answer, usage=answer.usage) == answer
        assert stream.answer.usage.new_tokens == answer.usage.new_tokens


def test_a_streams_clock_stands_still_between_its_steps(llava, pictures):
    began = perf_counter()
    stream = llava.stream(pictures[0], *ASKED, **SETTINGS)
    spent, piece = perf_counter() - began, ""
    while piece is not None:
        sleep(0.02)
        began = perf_counter()
        piece = stream.step()
        spent += perf_counter() - began
    assert 0 < stream.answer.usage.seconds <= spent


def test_a_stopped_stream_keeps_what_was_said(llava, pictures):
    whole = llava.generate(pictures[0], *ASKED, max_new_tokens=50)
    stream = llava.stream(pictures[0], *ASKED, max_new_tokens=50)
    for _ in range(5):
        stream.step()
    answer = stream.stop()
    assert answer is stream.answer
    assert answer.stopped_by == "stopped"
    assert 5 <= len(answer.token_ids) < 8
    assert whole.token_ids[: len(answer.token_ids)] == answer.token_ids
    assert stream.step() is None
    unasked = llava.stream(pictures[0], *ASKED)
    assert unasked.stop() is None
    assert list(unasked) == []


def test_a_stream_can_say_how_sure_the_model_is(llava, pictures):
    stream = llava.stream(pictures[0], *ASKED, uncertainty=True, **SETTINGS)
    assert list(stream)
    assert stream.answer.uncertainty == llava.generate(pictures[0], *ASKED, uncertainty=True, **SETTINGS).uncertainty


def test_an_interrupted_step_is_the_last(llava, pictures, steps, monkeypatch):
    """As Ctrl-C interrupts whoever waits for a step."""
    threads = own_threads()
    stream = llava.stream(pictures[0], *ASKED, max_new_tokens=300)
    stream.step()
    turns = stream._turns
    acquire = turns._back.acquire

    def interrupted():
        acquire()
        raise KeyboardInterrupt

    monkeypatch.setattr(turns._back, "acquire", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.step()
    assert stream.step() is None
    assert len(own_threads() - threads) == 1
    before = len(steps)
    stream.close()
    assert len(steps) == before
    assert own_threads() <= threads
