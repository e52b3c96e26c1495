"""Hard scenes: pairs occur together at the stated rates, and test scenes hold only what can be seen."""

from __future__ import annotations

import json
import random
from itertools import combinations

import pytest

from mmhall.benchmarks.scenes import make_scene, write_scenes
from mmhall.benchmarks.scenes.companions import (
    COMPANIONS,
    OFTEN,
    SELDOM,
    are_companions,
    companion_rate,
    goes_with,
)
from mmhall.benchmarks.scenes.hard import (
    BARELY,
    held_out_variant,
    plan_hard_scene,
    plan_hard_training_scene,
    presence,
)
from mmhall.benchmarks.scenes.plan import Placed, Plan
from mmhall.benchmarks.scenes.sprites import variants
from mmhall.benchmarks.scenes.world import NAMES, PARTNERS, PLACES
from mmhall.errors import OptionError

PLACE = {place.name: place for place in PLACES}


@pytest.fixture(scope="module")
def training():
    return [plan_hard_training_scene(random.Random(index)) for index in range(800)]


def test_companions_are_the_strongest_partners():
    assert COMPANIONS["fork"] == "knife"
    assert all(PARTNERS[name][COMPANIONS[name]] == max(PARTNERS[name].values()) for name in NAMES)
    assert are_companions("knife", "fork")
    assert are_companions("cat", "couch")
    assert not are_companions("fork", "spoon")


def test_the_place_decides_whether_a_companion_is_expected():
    """A fork brings a knife to a restaurant, where both are at home, and not to a park."""
    assert companion_rate("fork", PLACE["restaurant"]) == OFTEN
    assert companion_rate("fork", PLACE["park"]) == SELDOM
    assert not goes_with("knife", PLACE["kitchen"])  # no forks there
    expected = [goes_with(name, place) for place in PLACES for name in place.members]
    assert 0.5 < sum(expected) / len(expected) < 0.8


@pytest.mark.slow
def test_pairs_are_as_frequent_as_stated(training):
    """Chains and the limit of six categories move the rates by a few points."""
    share = {expected: there / of for expected, (there, of) in presence(training, hidden=False).items()}
    assert share[True] == pytest.approx(OFTEN, abs=0.04)
    assert share[False] == pytest.approx(SELDOM, abs=0.05)


def test_unseen_companions_are_there_in_most_cases_where_they_are_expected(training):
    """With rate r and a share s of companions that hardly show: r s / (r s + 1 - r) = 0.88 at r 0.92 and s 0.65."""
    share = {expected: there / of for expected, (there, of) in presence(training, hidden=True).items()}
    assert share[True] == pytest.approx(0.88, abs=0.06)
    assert share[False] < 0.15


def test_presence_is_counted_by_object_and_place():
    """In the restaurant fork and knife expect each other; the fork is covered. The cup's spoon is missing."""

    def placed(name, cover=0.0):
        return Placed(name, 0, 0.5, 0.5, 0.3, mirrored=False, tilt=0.0, cover=cover)

    things = (placed("fork", cover=0.9), placed("knife"), placed("cup"), placed("couch"))
    plan = Plan(PLACE["restaurant"], False, things, (), paint=0)
    assert presence([plan], hidden=False) == {True: (2, 3), False: (0, 1)}
    assert presence([plan], hidden=True) == {True: (1, 2), False: (0, 1)}


def test_one_drawing_of_each_category_is_for_test_scenes_only(training):
    assert not [o for plan in training for o in plan.objects if o.variant == held_out_variant(o.name)]
    assert {o.variant for plan in training for o in plan.objects if o.name == "car"} == set(range(variants("car") - 1))
    tests = [plan_hard_scene(random.Random(index), conflict=index % 2 == 0) for index in range(200)]
    held = [o.variant == held_out_variant(o.name) for plan in tests for o in plan.objects]
    assert 0.4 < sum(held) / len(held) < 0.6


def test_conflict_scenes_show_lures_without_their_companions():
    for index in range(300):
        plan = plan_hard_scene(random.Random(index), conflict=True)
        names = [o.name for o in plan.objects]
        assert 3 <= len(names) == len(set(names)) <= 5
        assert not any(are_companions(a, b) for a, b in combinations(names, 2))
        assert any(goes_with(name, plan.place) for name in names)


def test_typical_test_scenes_keep_the_pairs():
    there, of = 0, 0
    for index in range(300):
        plan = plan_hard_scene(random.Random(index), conflict=False)
        names = {o.name for o in plan.objects}
        for name in names:
            of += goes_with(name, plan.place)
            there += goes_with(name, plan.place) and COMPANIONS[name] in names
    assert there / of > 0.85


def test_decoys_are_in_every_kind_of_hard_scene_alike(training):
    def decoys(plans):
        hard = [s.cover >= BARELY.cover[0] or s.opacity < 1 or s.side < 0.1 for p in plans for s in p.scenery]
        return sum(hard) / len(plans)

    rates = [decoys(training)] + [
        decoys([plan_hard_scene(random.Random(index), conflict=conflict) for index in range(200)])
        for conflict in (True, False)
    ]
    assert all(rate == pytest.approx(0.95, abs=0.1) for rate in rates)  # 0.45 * 1 + 0.25 * 2


def test_the_truth_of_a_hard_scene_is_what_was_planned_and_can_be_seen():
    for index in range(4):
        scene = make_scene(5, index, 0.5, "hard")
        assert sorted(s.name for s in scene.objects) == sorted(o.name for o in scene.plan.objects)
        assert all(s.area >= 150 and s.visible >= 0.3 for s in scene.objects)


def test_kinds_are_series_of_their_own_and_named_in_the_file(tmp_path):
    assert make_scene(5, 0, kind="hard").image.tobytes() != make_scene(5, 0).image.tobytes()
    list(write_scenes(tmp_path / "hard", 2, seed=5, kind="hard"))
    list(write_scenes(tmp_path / "usual", 2, seed=5))
    info = {name: json.loads((tmp_path / name / "annotations.json").read_text())["info"] for name in ("hard", "usual")}
    assert info["hard"].pop("kind") == "hard"
    assert info["hard"] == info["usual"]


def test_an_unknown_kind_is_an_error(tmp_path):
    with pytest.raises(OptionError, match="kind must be usual or hard, got 'easy'"):
        list(write_scenes(tmp_path, 1, seed=0, kind="easy"))
    with pytest.raises(OptionError, match="kind must be usual or hard"):
        make_scene(0, 0, kind="easy")
