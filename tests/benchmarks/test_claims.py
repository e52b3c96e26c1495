"""What answers claim: the same in other words is the same claim."""

from __future__ import annotations

import pytest

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Item

SCENE = Item("1", "1", "Describe.", ("captions",), {"objects": ["couch", "cup"], "visibility": {}, "causes": {}})
QUESTION = Item("1/cup", "1", "Is there a cup?", ("random",), {"label": "yes", "object": "cup", "visibility": None})
NOUNS = {
    "truth": ["cup"],
    "hallu": ["dog"],
    "associations": {"cup": [], "dog": []},
    "neutral": [],
    "alike": [],
    "vocabulary": ["cup", "dog"],
}


@pytest.mark.parametrize("spec", ["chair", "detect"])
@pytest.mark.parametrize(
    ("text", "claimed"),
    [
        ("A sofa and two cups.", {"couch": True, "cup": True}),
        ("Cups on couches. A puppy.", {"couch": True, "cup": True, "dog": False}),
        ("dog", {"dog": False}),
        ("Nothing.", {}),
        ("", {}),
    ],
)
def test_a_caption_claims_the_objects_it_names(spec, text, claimed):
    assert benchmark(spec).claims(SCENE, text) == claimed


def test_only_what_is_counted_of_a_caption_is_claimed():
    assert benchmark("chair(words=3)").claims(SCENE, "A sofa and two cups.") == {"couch": True}


@pytest.mark.parametrize(("text", "right"), [("Yes", True), ("yes, there is.", True), ("No", False), ("", False)])
def test_an_answer_marked_as_a_whole_claims_one_thing(text, right):
    assert benchmark("pope").claims(QUESTION, text) == {"": right}


def test_marked_words_are_claims_whatever_their_case():
    item = Item("1", "1", "Describe.", ("all",), NOUNS)
    found = benchmark("amber-g").claims(item, "A Cup, a cup and a dog.")
    assert found == {"cup": True, "dog": False}
