from __future__ import annotations

import pytest

from mmhall.benchmarks.data.vocabulary import mentions, synonyms, vocabulary


def named(text):
    return [mention.name for mention in mentions(text)]


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("a cutting board", []),
        ("people playing baseball and football", ["person"]),
        ("a football player with a soccer ball", ["person", "sports ball"]),
        ("plants in the garden, a potted plant", ["potted plant"]),
        ("several vehicles", []),
        ("grilled chicken, two hens", []),
        ("a wheelchair", []),
        ("a monitor on the desk", ["tv", "dining table"]),
        ("a toilet with its seat up", ["toilet"]),
        ("a toilet and a chair", ["toilet", "chair"]),
        ("a seat", ["chair"]),
        ("a recliner", ["couch"]),
        ("a motor bike", ["motorcycle"]),
        ("a mallard, two finches and a robin", ["bird"] * 3),
        ("fishing vessels and a houseboat", ["boat", "boat"]),
        ("the hot dog stand", ["hot dog"]),
    ],
)
def test_words_mean_what_they_mean_in_captions(text, objects):
    assert named(text) == objects


def test_a_vocabulary_of_other_objects():
    """The bike is its own here; a phrase is the object's whose name it is; an underscore is a space."""
    made = vocabulary({"traffic_sign": [], "bike": ["bicycle"], "bicycle": [], "Fire Truck": ["engine"], "train": []})
    text = "Two traffic signs, bikes, a bicycle, fire trucks and an engine on train tracks by a train. A dog."
    assert [m.name for m in made.mentions(text)] == [
        "traffic_sign",
        "bike",
        "bicycle",
        "Fire Truck",
        "Fire Truck",
        "train",
    ]


def test_our_words_for_an_object():
    assert "puppy" in synonyms("dog")
    assert synonyms("fox") == []
    assert "baby zebra" in synonyms("zebra")


def test_a_name_that_misleads_is_no_object_but_where_it_is_looked_for():
    made = vocabulary({"dog": [], "phone": [], "bat": []})
    assert [m.name for m in made.mentions("a hot dog, a dog, a cell phone, baseball bats")] == ["dog", "phone"]
    assert [m.name for m in vocabulary({"dog": [], "hot dog": []}).mentions("hot dogs")] == ["hot dog"]


def test_suppressed_phrases_name_nothing():
    made = vocabulary({"fox": ["vixen"]}, ["fox hole", "vixen"])
    assert [m.name for m in made.mentions("Two foxes, fox holes, a fox hole, a vixen, a fox.")] == ["fox", "fox"]
