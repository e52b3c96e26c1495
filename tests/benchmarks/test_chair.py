from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.chair import Chair, score
from mmhall.benchmarks.scenes.language import surface_forms
from mmhall.benchmarks.vocabulary import SYNONYMS, mentions, plural


def named(text):
    return [mention.name for mention in mentions(text)]


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("Two men and a woman", ["person", "person"]),
        ("a hot dog next to a dog", ["hot dog", "dog"]),
        ("a teddy bear on the bed", ["teddy bear", "bed"]),
        ("wine glasses and a glass of water", ["wine glass"]),
        ("train tracks without a train", ["train"]),
        ("a baby elephant", ["elephant"]),
        ("mice, knives, buses, benches, puppies, sheep", ["mouse", "knife", "bus", "bench", "dog", "sheep"]),
        ("The TV and the cell phone.", ["tv", "cell phone"]),
        ("A kitchen with a fridge", ["refrigerator"]),
        ("bedroom, doghouse, carpet, catalogue", []),
        ("a toilet seat", ["toilet"]),
        ("the dog's ball, a man’s tie", ["dog", "sports ball", "person", "tie"]),
        ("bus stops, car seats and ski slopes", []),
        ("a range of hills", []),
        ("İ a dog", ["dog"]),
        ("a sports ball and a ball", ["sports ball", "sports ball"]),
        ("", []),
    ],
)
def test_objects_are_found(text, objects):
    assert named(text) == objects


def test_mentions_say_where_they_stand():
    text = "İ: There is a Wine Glass, and two puppies."
    assert [text[m.start : m.end] for m in mentions(text)] == ["Wine Glass", "puppies"]


def test_the_vocabulary_covers_cocos_eighty_categories_and_each_names_itself():
    assert len(SYNONYMS) == 80
    for name in SYNONYMS:
        assert named(f"a {name}.") == [name]
        assert named(f"two {plural(name)}.") == [name]


def test_every_word_the_scenes_use_for_an_object_is_known():
    for name, forms in surface_forms().items():
        for form in forms:
            assert named(form) == [name], form


def test_score_counts_by_hand():
    """dog, cat, cat, tv named; cat is absent twice; dog and tv of three present objects are found."""
    counts = score(["dog", "tv", "bed"], "A dog, a cat and another cat. They watch television!")
    assert counts == {
        "n": 1,
        "named": 4,
        "absent": 2,
        "flawed": 1,
        "found": 2,
        "present": 3,
        "words": 10,
        "sentences": 2,
    }


@given(st.lists(st.sampled_from(sorted(SYNONYMS)), max_size=8), st.sets(st.sampled_from(sorted(SYNONYMS)), max_size=5))
def test_score_equals_a_slow_count(objects, present):
    counts = score(present, ". ".join(f"A {name} is here" for name in objects))
    assert counts["named"] == len(objects)
    assert counts["absent"] == sum(name not in present for name in objects)
    assert counts["flawed"] == (counts["absent"] > 0)
    assert counts["found"] == len({name for name in objects if name in present})


def test_marks_cover_exactly_the_named_objects():
    item = Item("1", "1", "", ("captions",), {"objects": ["dog"]})
    assert Chair().mark(item, "a dog, a cat") == [(2, 5, True), (9, 12, False)]


@pytest.mark.parametrize("seed", range(3))
def test_random_text_never_breaks_it(seed):
    rng = random.Random(seed)
    text = "".join(chr(rng.randrange(32, 0x3000)) for _ in range(2000))
    for mention in mentions(text):
        assert 0 <= mention.start < mention.end <= len(text)
