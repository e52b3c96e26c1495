"""Who stops what: a visitor ends what runs for them, and never what they begin afterwards."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest

from mmhall.benchmarks.scenes import make_scene
from mmhall.demo.setups import truth
from mmhall.demo.state import Desk, scene_number


@pytest.fixture
def desk():
    return Desk(Future(), Path("runs"))


def test_a_stop_ends_what_runs_and_not_what_is_begun_after_it(desk):
    first = desk.go("a")
    other = desk.go("b")
    desk.stop("a")
    second = desk.go("a")
    assert (first.stopping, second.stopping, other.stopping) == (True, False, False)
    assert desk.ticket("a", second.number) is second
    assert desk.ticket("a", first.number) is None


def test_beginning_anew_ends_what_still_runs(desk):
    first = desk.go("a")
    desk.go("a")
    assert first.stopping
    assert not first.unseen


def test_another_picture_and_a_closed_tab_make_an_end_of_no_interest(desk):
    shown = desk.go("a")
    desk.stop("a", unseen=True)
    assert shown.unseen
    gone = desk.go("a")
    desk.leave("a")
    assert gone.stopping
    assert gone.unseen
    assert not desk.ticket("a", gone.number).stopping


def test_who_stays_long_is_not_forgotten_while_something_runs_for_them(desk):
    desk.go("stays")
    for number in range(200):
        desk.go(f"{number}")
    latest = desk.go("stays")
    for number in range(200):
        desk.go(f"another {number}")
    desk.stop("stays")
    assert latest.stopping


def test_invented_sessions_take_no_room(desk):
    for number in range(2000):
        desk.stop(f"{number}")
        desk.go(f"{number}" * 100)
    assert len(desk._tickets) < 500


def test_what_is_offered_and_not_ticked_is_not_there():
    assert truth([], ("cup",)) == {"present": None, "absent": None}
    assert truth(["dog"], ("cup", "dog")) == {"present": ["dog"], "absent": ["cup"]}
    assert truth(["dog"], None) == {"present": ["dog"], "absent": None}


def test_a_bundled_scene_is_recognised_by_what_it_shows():
    picture = make_scene(2026, 3).image
    assert scene_number(picture.copy()) == 3
    assert scene_number(make_scene(2026, 20).image) is None
    assert scene_number(picture.rotate(90)) is None
