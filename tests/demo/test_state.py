"""Who stops what, and how long answers are kept."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mmhall.answers import Answer, Usage
from mmhall.demo.state import Answers, AppState, Kept
from mmhall.errors import OptionError


@pytest.fixture
def app():
    return AppState(Future(), Path("runs"))


def test_a_stop_ends_what_runs_and_not_what_is_begun_after_it(app):
    first = app.begin("a")
    other = app.begin("b")
    app.stop("a")
    second = app.begin("a")
    assert (first.is_set(), second.is_set(), other.is_set()) == (True, False, False)


def test_beginning_anew_ends_what_still_runs(app):
    first = app.begin("a")
    app.begin("a")
    assert first.is_set()


def test_who_stays_long_is_not_forgotten_while_something_runs_for_them(app):
    app.begin("stays")
    for number in range(200):
        app.begin(f"{number}")
    latest = app.begin("stays")
    for number in range(200):
        app.begin(f"another {number}")
    app.stop("stays")
    assert latest.is_set()


def test_invented_sessions_take_no_room(app):
    for number in range(2000):
        app.stop(f"{number}")
        app.begin(f"{number}" * 100)
    assert len(app._stops) < 500


def kept(color, text="A dog.", size=(4, 4), spec="greedy"):
    """An answer kept for a picture of one colour; its tokens are the characters."""
    answer = Answer(text, (), tuple(map(ord, text)), "eos", spec, {}, Usage(1.0, 1, 1, None))
    return Kept(Image.new("RGB", size, color), "What is this?", answer, {})


def add(answers, one):
    return answers.add(answers.digest(one.picture), one)


def test_an_answer_is_found_by_what_was_asked_and_answered():
    answers, first = Answers(), kept("red")
    key = add(answers, first)
    assert answers.get(key) is first
    others = [kept("blue"), kept("red", "A cat."), kept("red", spec="vcd"), kept("red", size=(2, 8))]
    assert len({key, *(add(answers, one) for one in others)}) == 5
    assert add(Answers(), kept("red")) != key  # of another server


def test_an_equal_answer_to_an_equal_request_keeps_its_trace():
    answers, first, second = Answers(), kept("red"), kept("red")
    key = add(answers, first)
    first.followed = SimpleNamespace(size=1)
    assert add(answers, second) == key
    assert answers.get(key).followed is first.followed
    assert answers.get(key) is second
    assert second.picture is first.picture


@pytest.mark.parametrize("key", [None, 5, "", "0" * 32, [], {}, "../x"])
def test_an_answer_that_is_not_kept_is_refused(key):
    with pytest.raises(OptionError, match="ask again"):
        Answers().get(key)


def test_the_answers_used_least_recently_make_room():
    answers = Answers(room=3 * 3 * 16)
    red, green, blue = (add(answers, kept(color)) for color in ("red", "green", "blue"))
    answers.get(red)
    yellow = add(answers, kept("yellow"))
    for key in (red, blue, yellow):
        answers.get(key)
    with pytest.raises(OptionError):
        answers.get(green)
    large = add(answers, kept("white", size=(99, 99)))
    assert answers.get(large).picture.size == (99, 99)
    with pytest.raises(OptionError):
        answers.get(yellow)


def test_many_answers_take_no_more_room():
    answers = Answers()
    for number in range(400):
        add(answers, kept("red", str(number)))
    assert len(answers._kept) == 256
