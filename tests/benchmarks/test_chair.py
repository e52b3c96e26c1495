from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.chair import CAUSES, VISIBILITIES, Chair, Cooccurrence, score
from mmhall.benchmarks.data.pictures import Picture, PictureSet
from mmhall.benchmarks.data.vocabulary import mentions
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.rules.length import cut, finished_part
from mmhall.benchmarks.scenes.language import surface_forms
from mmhall.objects.coco_words import SYNONYMS
from mmhall.objects.plurals import plural
from mmhall.results.store import Row


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
        ("car seats and phone booths", []),
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


def test_causes_by_hand():
    """Cup goes with table 3, fork 2, bed 1, dog 1 times: bed is third by name; dog is popular only."""
    world = [["cup", "table", "fork"], ["cup", "table", "fork", "bed"], ["cup", "table", "dog"], ["cat"]]
    assert Cooccurrence(world).causes(["cup"]) == {
        "bed": "co-occurring",
        "cat": "popular",
        "dog": "popular",
        "fork": "co-occurring",
        "table": "co-occurring",
    }


def test_only_the_most_frequent_are_popular():
    """Eleven objects appear once each but "a" twice: "k" is the eleventh by name."""
    causes = Cooccurrence([[name] for name in "abcdefghijka"]).causes(["a"])
    assert set(causes) == set("bcdefghij")
    assert set(causes.values()) == {"popular"}


def test_counts_by_cause_and_visibility_by_hand():
    truth = {
        "objects": ["dog", "cup", "tv"],
        "visibility": {"dog": "clear", "cup": "small", "tv": ""},
        "causes": {"cat": "co-occurring", "person": "popular"},
    }
    counts = Chair().count(Item("1", "1", "", (), truth), "A dog, a cat, two cats, a man, a zebra and a TV.")
    causes = {cause: counts[f"absent {cause}"] for cause in CAUSES}
    assert causes == {"co-occurring": 2, "popular": 1, "random": 1}
    assert (counts["named"], counts["absent"], counts["distinct"], counts["found"]) == (6, 4, 5, 2)
    seen = {kind: (counts[f"found {kind}"], counts[f"present {kind}"]) for kind in VISIBILITIES}
    assert seen == {"clear": (1, 1), "small": (0, 1), "faint": (0, 0), "covered": (0, 0)}


@given(st.lists(st.sampled_from(sorted(SYNONYMS))), st.sets(st.sampled_from(sorted(SYNONYMS)), min_size=1))
def test_causes_add_up_to_what_is_absent(objects, present):
    likely = Cooccurrence([sorted(present), objects])
    item = Item("1", "1", "", (), {"objects": sorted(present), "causes": likely.causes(present)})
    counts = Chair().count(item, ". ".join(objects))
    assert sum(counts[f"absent {cause}"] for cause in CAUSES) == counts["absent"]


@pytest.mark.parametrize(
    ("text", "words", "rest"),
    [
        ("A dog, a cat. The end.", 2, "A dog,"),
        ("A dog, a cat. The end.", 6, "A dog, a cat. The end."),
        ("A dog", 9, "A dog"),
        ("A dog", 0, ""),
        ("", 3, ""),
    ],
)
def test_texts_are_cut_behind_words(text, words, rest):
    assert cut(text, words) == rest


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("A dog. A c", "A dog."),
        ("A dog.", "A dog."),
        ('"A dog!" A', '"A dog!"'),
        ("A dog at 3.5 m", ""),
        ("1. A dog", ""),
        ("A dog.\n2. A cat", "A dog."),
        ("It is from 2010. A", "It is from 2010."),
        ("", ""),
    ],
)
def test_an_unfinished_sentence_is_dropped(text, rest):
    assert finished_part(text) == rest


def test_captions_are_cut_before_they_are_read():
    item = Item("1", "1", "", (), {"objects": ["dog"]})
    text = "A dog runs. A cat sleeps. A bird"
    assert Chair(words=4).mark(item, text) == [(2, 5, True)]
    assert [Chair(words=k).count(item, text)["words"] for k in (0, 5, 9)] == [8, 5, 8]
    assert Chair(words=5).count(item, text)["named"] == 2
    assert Chair(words=5, drop_unfinished=True).count(item, text)["named"] == 1
    assert Chair(drop_unfinished=True).count(item, text)["words"] == 6


@given(st.text(), st.integers(0, 20))
def test_a_cut_text_begins_the_text_and_has_no_more_words(text, words):
    rest = cut(text, words)
    assert text.startswith(rest)
    assert score([], rest)["words"] == min(words, score([], text)["words"])


def test_equal_length_by_hand():
    """Greedy says a dog and a cat (5 words), other also a bird (8): cut to 5, they are the same.

    On the second picture other is the shorter one: greedy's cat falls away, other errs no more and no less.
    """
    items = [Item(n, n, "", ("captions", "equal length"), {"objects": ["dog"]}) for n in "12"]
    texts = {
        "greedy": ["A dog and a cat.", "A dog and a cat."],
        "other": ["A dog and a cat and a bird.", "A dog."],
    }
    rows = [Row("chair", str(n + 1), s, texts[s][n], "eos", 1, 1.0, 0) for s in texts for n in range(2)]
    cells = evaluate(Chair(), items, rows, ["greedy", "other"]).cells
    found = {(c.group, c.strategy, c.metric.name): c for c in cells}
    assert found["captions", "other", "CHAIR_i"].estimate.value == 2 / 4
    assert found["captions", "other", "CHAIR_i"].difference.value == 0
    assert found["captions", "other", "hallucinated"].difference.value == 0
    assert found["equal length", "greedy", "words"].estimate.value == 5
    assert found["equal length", "other", "words"].estimate.value == 3.5
    assert found["equal length", "other", "words"].difference.value == 0
    assert found["equal length", "other", "CHAIR_i"].estimate.value == pytest.approx(1 / 3)
    assert found["equal length", "other", "CHAIR_i"].difference.value == 0
    assert found["equal length", "other", "CHAIR_s"].difference.turned == (0, 0)


def test_equal_mentions_by_hand():
    """Greedy's mentions are wrong as 0 0 1 0 1 1 and 0 1, the method's as 0 0 1 and 0 0 1 0.

    Uncut, CHAIR_i is 4 / 8 and 2 / 7; with three and two mentions of each, 2 / 5 and 1 / 5. Of the third picture the
    method names nothing, so greedy's wrong mention there counts in neither.
    """
    names = {"0": "dog", "1": "cat"}
    said = {"greedy": ["001011", "01", "1"], "method": ["001", "0010", ""]}
    items = [Item(n, n, "", Chair.groups, {"objects": ["dog"]}) for n in "012"]
    rows = [
        Row("chair", f"{n}", s, " ".join(f"A {names[one]}." for one in each), "eos", 1, 1.0, 0)
        for s, own in said.items()
        for n, each in enumerate(own)
    ]
    evaluation = evaluate(Chair(), items, rows, ["greedy", "method"])
    found = {(c.group, c.strategy, c.metric.name): c for c in evaluation.cells}
    assert list(evaluation.sizes) == ["equal mentions", "equal length", "captions"]
    assert found["captions", "method", "CHAIR_i"].estimate.value == pytest.approx(2 / 7)
    own = found["equal mentions", "method", "CHAIR_i"]
    assert (own.estimate.value, own.difference.value) == (pytest.approx(0.2), pytest.approx(0.2 - 0.4))
    assert (own.estimate.over, own.estimate.under) == (1, 5)
    assert found["equal mentions", "method", "mentions"].difference.value == 0
    assert found["equal mentions", "method", "CHAIR_s"].estimate.under == 2
    method = next(figures for figures in evaluation.captions if figures.strategy == "method")
    assert (method.unmatched, method.pictures) == (1, 3)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Chair(), 8),  # greedy's eight, and other's first eight of eleven
        (
            Chair(drop_unfinished=True),
            6,
        ),  # greedy's six without "A bird", and other's first six, though they end nothing
        (Chair(drop_unfinished=True, words=8), 5),  # other's five, for its eight words end nothing more
        (Chair(words=4), 4),
    ],
)
def test_equal_length_is_of_what_counts(made, words):
    items = [Item("1", "1", "", ("captions", "equal length"), {"objects": ["dog"]})]
    texts = {"greedy": "A dog runs. A cat sleeps. A bird", "other": "A cat and a dog. Then a big blue car goes."}
    rows = [Row("chair", "1", s, text, "eos", 1, 1.0, 0) for s, text in texts.items()]
    cells = {(c.group, c.strategy, c.metric.name): c for c in evaluate(made, items, rows, list(texts)).cells}
    assert cells["equal length", "other", "words"].estimate.value == words
    assert cells["equal length", "other", "words"].difference.value == 0


def test_pictures_without_objects_are_left_out_and_told(tmp_path):
    dog, bare = Picture("1", tmp_path, ("dog",), {}), Picture("2", tmp_path, (), {})
    both = PictureSet((dog, bare), ("dog",))
    assert Chair().complete_pictures(both)[1] == ["1 of 2 pictures show no known object and are left out."]
    assert [item.id for item in Chair().items(both, 0)] == ["1"]
    assert Chair().complete_pictures(PictureSet((dog,), ("dog",)))[1] == []
    captions = tmp_path / "captions.json"
    captions.write_text('{"annotations": [{"image_id": 2, "caption": "A cat."}]}')
    known, remarks = Chair(captions=str(captions)).complete_pictures(both)
    assert remarks == ["1 of 2 objects are known from reference captions only."]
    assert [item.id for item in Chair().items(known, 0)] == ["1", "2"]


def test_items_are_in_all_groups(tmp_path):
    pictures = PictureSet(
        (Picture("1", tmp_path, ("dog", "cat"), {}), Picture("2", tmp_path, ("dog",), {})), ("cat", "dog", "tv")
    )
    items = Chair().items(pictures, 0)
    assert [item.groups for item in items] == [("equal mentions", "equal length", "captions")] * 2
    assert [item.truth["causes"] for item in items] == [{}, {"cat": "co-occurring"}]


def test_equal_length_is_of_what_counts_where_ends_are_dropped():
    """With unfinished ends dropped greedy has 4 words left and other 8: other is cut to 4, amid a sentence."""
    items = [Item("1", "1", "", ("captions", "equal length"), {"objects": ["dog"]})]
    texts = {"greedy": "A dog is here. And a c", "other": "A dog and a cat and a bird. It"}
    rows = [Row("chair", "1", s, text, "length", 1, 1.0, 0) for s, text in texts.items()]
    cells = evaluate(Chair(drop_unfinished=True), items, rows, ["greedy", "other"]).cells
    found = {(c.group, c.strategy, c.metric.name): c for c in cells}
    assert [found[g, "other", "words"].estimate.value for g in ("captions", "equal length")] == [8, 4]
    assert found["captions", "other", "CHAIR_i"].estimate.value == pytest.approx(2 / 3)
    assert found["equal length", "other", "words"].difference.value == 0
    assert found["equal length", "other", "CHAIR_i"].estimate.value == 0


def test_the_baseline_alone_has_no_equal_length():
    items = [Item("1", "1", "", ("captions", "equal length"), {"objects": ["dog"]})]
    evaluation = evaluate(Chair(), items, [Row("chair", "1", "greedy", "A dog.", "eos", 1, 1.0, 0)], ["greedy"])
    assert set(evaluation.sizes) == {"captions"} == {cell.group for cell in evaluation.cells}
