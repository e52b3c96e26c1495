"""Objects that texts name, by truth made by hand."""

from __future__ import annotations

import pytest

from mmhall.demo.setups import read_setup
from mmhall.display.marks import asked_object, canonical_name, is_closed, is_present, judge_object, named_objects


def test_objects_are_named_once_in_order():
    assert named_objects("Dogs chase a dog near wine glasses; a cup, a wine glass.") == ["dog", "wine glass", "cup"]
    assert named_objects("") == []


def test_objects_that_coco_lacks_count_where_they_are_known():
    assert named_objects("a carrot and a lighthouse") == ["carrot"]
    assert named_objects("a carrot and a lighthouse", ["lighthouse"]) == ["carrot", "lighthouse"]


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("No, there is no dog in the image.", []),
        ("There are no cars, but a cup.", ["cup"]),
        ("A table without a cup and a chair.", ["dining table"]),
        ("There isn't any cat. A dog sleeps.", ["dog"]),
        ("A man not wearing a tie sits on a couch.", ["couch"]),
        ("There is no person near the car, which stands beside a bench.", ["car", "bench"]),
        ("There are no cups or bowls on the table.", ["dining table"]),
        ("Yes, there is a dog in the image.", ["dog"]),
        ("I cannot see a dog.", []),
        ("There are none of the cups; not only a dog but also a cat.", ["dog", "cat"]),
        ("A nobleman and a knot; nothing but a cup", ["person", "cup"]),
    ],
)
def test_what_an_answer_denies_is_not_named(text, objects):
    assert [name for name in named_objects(text) if name != "person"] == [name for name in objects if name != "person"]


def test_objects_go_by_the_names_of_coco():
    assert [canonical_name(name) for name in ("Sofa", "people", " TV ", "drone", "hot  dogs")] == [
        "couch", "person", "tv", "drone", "hot dog",
    ]  # fmt: skip
    made, _ = read_setup(
        {"prompt": "?", "strategies": ["greedy"], "present": ["sofa", "people", "couch"], "absent": ["TV"]}
    )
    assert (made.present, made.absent) == (("couch", "person"), ("tv",))


def test_what_nobody_knows_is_not_judged():
    assert [judge_object(name, None) for name in ("cup", "dog")] == ["unknown"] * 2
    assert [judge_object(name, ["cup"]) for name in ("cup", "dog")] == ["supported", "hallucinated"]
    assert [judge_object(name, ["cup"], ["cat"]) for name in ("cup", "dog", "cat")] == [
        "supported", "unknown", "hallucinated",
    ]  # fmt: skip


def test_an_object_outside_the_vocabulary_has_no_truth_unless_it_is_told():
    assert is_present("helicopter", ["cup"]) is None
    assert is_present("helicopter", ["helicopter"]) is True
    assert is_present("helicopter", ["cup"], ["helicopter"]) is False
    assert is_present("sofa", ["couch"]) is True
    assert is_present("dog", []) is False


@pytest.mark.parametrize(
    ("prompt", "asked", "closed"),
    [
        ("Is there a dog in the image?", "dog", True),
        ("Is there an umbrella in this picture? Answer yes or no.", "umbrella", True),
        ("Are there any wine glasses visible in the photo?", "wine glass", True),
        ("Is there a dog on the couch?", "dog on the couch", True),  # not whether there is a dog
        ("is there a helicopter?", "helicopter", True),
        ("Is there a dog or a cat?", None, False),
        ("Is the dog asleep?", None, True),
        ("Is it a cat or a dog?", None, False),
        ("What is there in the image?", None, False),
        ("Please describe this image in detail.", None, False),
        ("", None, False),
    ],
)
def test_closed_questions_are_told_from_others(prompt, asked, closed):
    assert (asked_object(prompt), is_closed(prompt)) == (asked, closed)
