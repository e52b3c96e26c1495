"""Who stops what: a visitor ends what runs for them, and never what they begin afterwards."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from mmhall.benchmarks.scenes import make_scene
from mmhall.demo.setups import ground_truth
from mmhall.demo.state import AppState, scene_number


@pytest.fixture
def app():
    return AppState(Future(), Path("runs"))


def test_a_stop_ends_what_runs_and_not_what_is_begun_after_it(app):
    first = app.begin("a")
    other = app.begin("b")
    app.stop("a")
    second = app.begin("a")
    assert (first.stopping, second.stopping, other.stopping) == (True, False, False)
    assert app.ticket("a", second.number) is second
    assert app.ticket("a", first.number) is None


def test_beginning_anew_ends_what_still_runs(app):
    first = app.begin("a")
    app.begin("a")
    assert first.stopping
    assert not first.discarded


def test_another_picture_and_a_closed_tab_make_an_end_of_no_interest(app):
    shown = app.begin("a")
    app.stop("a", discarded=True)
    assert shown.discarded
    gone = app.begin("a")
    app.forget("a")
    assert gone.stopping
    assert gone.discarded
    assert not app.ticket("a", gone.number).stopping


def test_who_stays_long_is_not_forgotten_while_something_runs_for_them(app):
    app.begin("stays")
    for number in range(200):
        app.begin(f"{number}")
    latest = app.begin("stays")
    for number in range(200):
        app.begin(f"another {number}")
    app.stop("stays")
    assert latest.stopping


def test_invented_sessions_take_no_room(app):
    for number in range(2000):
        app.stop(f"{number}")
        app.begin(f"{number}" * 100)
    assert len(app._tickets) < 500


def test_what_is_offered_and_not_ticked_is_not_there():
    assert ground_truth([], ("cup",)) == {"present": None, "absent": None}
    assert ground_truth(["dog"], ("cup", "dog")) == {"present": ["dog"], "absent": ["cup"]}
    assert ground_truth(["dog"], None) == {"present": ["dog"], "absent": None}


def test_a_bundled_scene_is_recognised_by_what_it_shows():
    picture = make_scene(2026, 3).image
    assert scene_number(picture.copy()) == 3
    assert scene_number(make_scene(2026, 20).image) is None
    assert scene_number(picture.rotate(90)) is None
