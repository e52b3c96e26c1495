from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhall.benchmarks.pictures import Picture, PictureSet
from mmhall.benchmarks.pope import Pope, question_about
from mmhall.benchmarks.yesno import METRICS, parse_official, parse_strict, score
from mmhall.errors import DataError

WORLD = {
    "1": ("cat", "dog", "cup"),
    "2": ("dog", "cup", "bed"),
    "3": ("dog", "cat", "car"),
    "4": ("bus", "car", "dog"),
    "5": ("cat",),
    "6": ("cup", "bed", "tv", "dog"),
}


@pytest.fixture
def world() -> PictureSet:
    pictures = tuple(Picture(k, Path(f"{k}.png"), v, {}) for k, v in WORLD.items())
    return PictureSet(pictures, tuple(sorted({n for v in WORLD.values() for n in v})))


def in_setting(items, setting):
    return [item for item in items if setting in item.groups]


@pytest.mark.parametrize(
    ("answer", "official", "strict"),
    [
        ("Yes", "yes", "yes"),
        ("No", "no", "no"),
        ("no.", "no", "no"),
        ("", "yes", None),
        ("NO", "yes", "no"),
        ("No!", "yes", "no"),
        ("**No**", "yes", "no"),
        ("None", "yes", None),
        ("Not visible", "yes", None),
        ("not visible", "no", None),
        ("The image shows a street. There is no truck.", "yes", None),
        ("Yes, there is no doubt", "no", "yes"),
        ("I am not sure.", "no", None),
        ("No, there is no dog.", "no", "no"),
        (". No", "yes", "no"),
        ("yes, it is", "yes", "yes"),
        ("Ja", "yes", None),
    ],
)
def test_rules_read_answers_as_described(answer, official, strict):
    assert (parse_official(answer), parse_strict(answer)) == (official, strict)


@given(st.text(alphabet="NnoYyest., \n!", max_size=20))
def test_official_rule_equals_a_slow_reading(answer):
    before = ""
    for character in answer:
        if character == ".":
            break
        before += "" if character == "," else character
    words, word = [], ""
    for character in before + " ":
        if character == " ":
            words.append(word)
            word = ""
        else:
            word += character
    assert parse_official(answer) == ("no" if any(w in ("No", "no", "not") for w in words) else "yes")


def test_each_picture_gets_three_present_and_three_absent_objects_in_every_setting(world):
    items = Pope().items(world, seed=0)
    for setting in Pope.groups:
        asked = in_setting(items, setting)
        per_picture = Counter((item.picture, item.truth["label"]) for item in asked)
        assert set(per_picture.values()) == {3}
        assert {picture for picture, _ in per_picture} == {"1", "2", "3", "4", "6"}
        for item in asked:
            assert (item.truth["object"] in WORLD[item.picture]) == (item.truth["label"] == "yes")


def test_present_objects_are_the_first_three_listed_and_shared_by_all_settings(world):
    yes = [item for item in Pope().items(world, 0) if item.truth["label"] == "yes"]
    assert all(item.groups == Pope.groups for item in yes)
    assert [item.truth["object"] for item in yes if item.picture == "6"] == ["cup", "bed", "tv"]


def test_popular_asks_for_the_most_frequent_absent_objects(world):
    """Pictures 1, 2, 3, 4, 6 hold dog 5, cup 3, cat 2, bed 2, car 2, bus 1, tv 1; picture 4 holds bus, car, dog."""
    items = in_setting(Pope().items(world, 0), "popular")
    assert {i.truth["object"] for i in items if i.picture == "4" and i.truth["label"] == "no"} == {"cup", "cat", "bed"}


def test_adversarial_asks_for_what_goes_with_the_object_just_asked(world):
    """Picture 3 (dog, cat, car): with dog goes cup, 3 times; with cat only cup again, so a random one; with car bus."""
    items = in_setting(Pope().items(world, 0), "adversarial")
    assert {i.truth["object"] for i in items if i.picture == "3" and i.truth["label"] == "no"} > {"cup", "bus"}


def test_random_draws_repeat_with_the_seed_and_differ_without(world):
    def absent(seed):
        return [i.id for i in in_setting(Pope().items(world, seed), "random") if i.truth["label"] == "no"]

    assert absent(1) == absent(1)
    assert any(absent(1) != absent(seed) for seed in (2, 3, 4))


def test_ids_are_unique(world):
    items = Pope().items(world, 0)
    assert len({item.id for item in items}) == len(items)


def test_absent_objects_come_from_the_file_when_the_pictures_show_no_others():
    lone = (Picture("1", Path("1.png"), ("cat", "dog", "cup"), {}),)
    known = ("bed", "bus", "cat", "cup", "dog", "tv")
    absent = {i.truth["object"] for i in Pope().items(PictureSet(lone, known), 0) if i.truth["label"] == "no"}
    assert absent == {"bed", "bus", "tv"}
    with pytest.raises(DataError, match="shows every category"):
        Pope().items(PictureSet(lone, ("cat", "cup", "dog")), 0)


def test_pictures_with_too_few_objects_are_an_error_when_there_are_no_others():
    alone = PictureSet((Picture("1", Path("1.png"), ("cat",), {}),), ("cat",))
    with pytest.raises(DataError, match="no picture has 3 objects"):
        Pope().items(alone, 0)


@pytest.mark.parametrize(
    ("name", "question"), [("apple", "Is there an apple in the image?"), ("tv", "Is there a tv in the image?")]
)
def test_article(name, question):
    assert question_about(name) == question


@given(
    st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no", None])), min_size=1, max_size=30)
)
def test_metrics_equal_a_slow_confusion_table(pairs):
    counts = [score(label, answered) for label, answered in pairs]
    got = {
        m.name: (
            sum(c[k] * w for c in counts for k, w in m.over.items()),
            sum(c[k] * w for c in counts for k, w in m.under.items()),
        )
        for m in METRICS
    }
    tp = sum(pair == ("yes", "yes") for pair in pairs)
    fp = sum(pair == ("no", "yes") for pair in pairs)
    missed = sum(label == "yes" and answered != "yes" for label, answered in pairs)
    assert got["accuracy"] == (sum(a == b for a, b in pairs), len(pairs))
    assert got["precision"] == (tp, tp + fp)
    assert got["recall"] == (tp, tp + missed)
    assert got["F1"] == (2 * tp, 2 * tp + fp + missed)
    assert got["yes ratio"] == (tp + fp, len(pairs))
    assert got["unparsed"] == (sum(a is None for _, a in pairs), len(pairs))


def test_random_world_never_asks_for_a_present_object_as_absent():
    rng = random.Random(0)
    names = list("abcdefghij")
    for seed in range(20):
        pictures = tuple(Picture(str(i), Path("x"), tuple(rng.sample(names, rng.randint(3, 6))), {}) for i in range(12))
        for item in Pope().items(PictureSet(pictures, tuple(names)), seed):
            present = next(p.objects for p in pictures if p.id == item.picture)
            assert (item.truth["label"] == "yes") == (item.truth["object"] in present)


def test_items_go_by_picture_so_that_a_partial_run_is_balanced(world):
    pictures = [item.picture for item in Pope().items(world, 0)]
    assert pictures == sorted(pictures)
