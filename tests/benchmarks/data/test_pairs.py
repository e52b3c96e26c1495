"""Pairs of faithful and hallucinated texts: what is replaced, by what, and what is the same in both."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from mmhall.benchmarks.data.pairs import PROMPT, make_pairs, read_pairs
from mmhall.benchmarks.data.pictures import Picture, PictureSet, read_coco, read_pictures
from mmhall.benchmarks.data.pope_wording import with_article
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import DataError
from mmhall.objects.categories import names
from mmhall.strategies._pairs import find_imbalance
from tests.benchmarks.conftest import picture, write_json, write_lines


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 20, 77))
    return read_coco(folder / "annotations.json", folder)


def pictured(*objects, categories=(), folder=None):
    """Pictures of some objects each, without files."""
    made = tuple(Picture(str(n), folder, tuple(own), dict.fromkeys(own, "")) for n, own in enumerate(objects))
    return PictureSet(made, tuple(sorted({name for own in objects for name in own} | set(categories))))


def named(text):
    """The objects of a text, as it writes them."""
    assert text.startswith("The image shows ")
    assert text.endswith(".")
    return text.removeprefix("The image shows ").removesuffix(".").replace(" and ", ", ").split(", ")


@pytest.mark.slow
def test_a_third_is_replaced_by_what_is_absent(scenes):
    pairs = make_pairs(scenes, "drawn scenes", 3)
    assert len(pairs.pairs) == 20
    for pair in pairs.pairs:
        shown = scenes[pair.id].objects
        true, false = named(pair.faithful), named(pair.hallucinated)
        assert true == [with_article(name) for name in shown]
        changed = [(one, other) for one, other in zip(true, false, strict=True) if one != other]
        assert len(changed) == max(1, len(shown) // 3)
        assert not {other for _, other in changed} & set(true)
        assert len(set(false)) == len(false)
        assert (pair.prompt, pair.picture) == (PROMPT, scenes[pair.id].path)


def test_both_texts_have_as_many_words_and_one_end(scenes, embedded):
    pairs = make_pairs(scenes, "drawn scenes", 3)
    assert all(len(p.faithful.split()) == len(p.hallucinated.split()) for p in pairs.pairs)
    assert find_imbalance(pairs, embedded.adapter.tokenizer) == []
    assert {len(named(p.faithful)) for p in pairs.pairs} > {3, 4}


def test_the_same_seed_gives_the_same(scenes):
    one, again, other = (make_pairs(scenes, "drawn scenes", seed) for seed in (3, 3, 4))
    assert one == again
    assert one.digest == again.digest != other.digest
    first = make_pairs(scenes, "drawn scenes", 3, limit=5)
    assert first.pairs == one.pairs[:5]


def test_a_digest_depends_on_the_pictures_too(tmp_path):
    file = picture(tmp_path / "a.png")
    write_lines(tmp_path / "a.jsonl", [{"picture": "a.png", "faithful": "A dog.", "hallucinated": "A cat."}])
    before = read_pairs(tmp_path / "a.jsonl", tmp_path).digest
    assert read_pairs(tmp_path / "a.jsonl", tmp_path).digest == before
    picture(file, "blue")
    assert read_pairs(tmp_path / "a.jsonl", tmp_path).digest != before


def test_what_stands_beside_the_rest_is_chosen(tmp_path):
    """A fork stands beside a plate nine times, a whale never: beside a plate it is a fork that is made up."""
    pictures = pictured(*[("plate", "fork")] * 9, *[("whale", "ship")] * 9, *[("plate", "spoon")] * 40)
    pairs = make_pairs(pictures, "mine", 0).pairs[18:]
    replaced = [named(pair.hallucinated) for pair in pairs]
    beside_plate = Counter(other for kept, other in replaced if kept == "a plate")
    assert set(beside_plate) == {"a fork"}
    beside_spoon = Counter(other for other, kept in replaced if kept == "a spoon")
    assert sum(beside_spoon.values()) + sum(beside_plate.values()) == 40
    assert len(beside_spoon) > 1  # nothing else stands beside a spoon: any is as good


def test_names_of_two_words_and_plurals_are_replaced_by_their_like():
    pictures = pictured(
        ("traffic light",), ("skis",), ("Cabinet/shelf",), categories=("stop sign", "scissors", "apple")
    )
    texts = [(p.faithful, p.hallucinated) for p in make_pairs(pictures, "mine", 0).pairs]
    assert texts == [
        ("The image shows a traffic light.", "The image shows a stop sign."),
        ("The image shows skis.", "The image shows scissors."),
        ("The image shows a cabinet.", "The image shows an apple."),
    ]
    assert names("Cabinet/shelf")[0] == "cabinet"


def test_nothing_is_made_up_twice():
    """Two of six are to be replaced, and one category is absent: one of them stays."""
    six = ("dog", "cat", "bird", "horse", "sheep", "cow")
    (pair,) = make_pairs(pictured(six, categories=("bear",)), "mine", 0).pairs
    false = named(pair.hallucinated)
    assert len(set(false)) == 6
    assert len({*false, *named(pair.faithful)}) == 7


def test_pictures_that_allow_none_are_left_out():
    pictures = pictured((), ("dog",), ("stop sign", "dog"), categories=("cat",))
    assert [pair.id for pair in make_pairs(pictures, "mine", 0).pairs] == ["1", "2"]
    with pytest.raises(DataError, match="mine: no picture has an object that another category"):
        make_pairs(pictured(("dog",), ("dog", "stop sign")), "mine", 0)


def test_any_pictures_with_objects_do(tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    (tmp_path / "own.csv").write_text("file,objects\na.png,dog;cat\nb.png,bird\n")
    pairs = make_pairs(read_pictures(tmp_path / "own.csv", tmp_path), "own.csv", 0)
    assert [pair.faithful for pair in pairs.pairs] == ["The image shows a dog and a cat.", "The image shows a bird."]
    assert pairs.source == "own.csv"


def test_what_a_reader_should_know_of_the_data_is_kept(tmp_path):
    picture(tmp_path / "a.png")
    data = {
        "images": [{"id": 1, "file_name": "a.png", "neg_category_ids": [2]}],
        "annotations": [{"image_id": 1, "category_id": 1}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    pictures = read_pictures(write_json(tmp_path / "lvis.json", data), tmp_path)
    assert make_pairs(pictures, "lvis.json", 0).remarks == pictures.remarks != ()


def test_pairs_are_read_from_lines(tmp_path):
    picture(tmp_path / "images" / "a.png")
    lines = [
        {"picture": "a.png", "faithful": "A dog.", "hallucinated": "A cat."},
        {"image": "a.png", "faithful": "A bird.", "hallucinated": "A fish.", "prompt": "What is it?"},
    ]
    path = write_lines(tmp_path / "mine.jsonl", lines)
    pairs = read_pairs(path, tmp_path / "images")
    assert [(p.id, p.prompt, p.faithful, p.hallucinated) for p in pairs.pairs] == [
        ("a.png", PROMPT, "A dog.", "A cat."),
        ("a.png", "What is it?", "A bird.", "A fish."),
    ]
    assert (pairs.source, pairs.pairs[0].picture) == ("mine.jsonl", tmp_path / "images" / "a.png")
    assert len(read_pairs(path, tmp_path / "images", 1).pairs) == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"picture": "a.png", "faithful": "A dog."}, "line 1: 'hallucinated' must be a text, got null"),
        ({"faithful": "A dog.", "hallucinated": "A cat."}, "line 1: 'picture' must be a text"),
        ({"picture": "b.png", "faithful": "A", "hallucinated": "B"}, r"b\.png: is not in .*; check --images"),
        ({"picture": "a.png", "faithful": "A", "hallucinated": "A"}, r"mine\.jsonl, picture a\.png: its texts are the"),
        ("A", "line 1: is no JSON object; expected JSON Lines such as"),
    ],
)
def test_lines_that_are_no_pairs_are_refused(tmp_path, line, told):
    picture(tmp_path / "a.png")
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=told):
        read_pairs(tmp_path / "mine.jsonl", tmp_path)


CAPTIONED = pictured(
    ("dog", "bench"), ("person", "dog"), ("traffic light",), ("cat",), categories=("apple", "bear", "stop sign", "skis")
)


@pytest.mark.parametrize(
    ("caption", "false"),
    [
        ("A dog sits still", r"(An apple|A bear|A cat|A person) sits still\."),
        ("Dogs sit still !", r"(Apples|Bears|Cats|People|Skis) sit still\."),
        ("an old man and a dog", r"an old (apple|bear|cat) and a dog\.|an old man and (an apple|a bear|a cat)\."),
        (
            "The dog looks at another dog beside a cat.",
            r"The dog looks at another dog beside (an apple|a bear|a person)\.",
        ),
    ],
)
def test_one_object_of_a_persons_caption_is_another(caption, false):
    """The same number, as many words, an article that fits; one that is named twice stays."""
    pictures = replace(CAPTIONED, pictures=tuple(replace(one, objects=("dog", "bench")) for one in CAPTIONED.pictures))
    seen = set()
    for seed in range(12):
        for pair in make_pairs(pictures, "mine", seed, captions={one.id: [caption] for one in pictures.pictures}).pairs:
            assert re.fullmatch(false, pair.hallucinated), pair.hallucinated
            assert pair.faithful == caption.rstrip(" !.") + "."
            assert len(pair.faithful.split()) == len(pair.hallucinated.split())
            seen.add(pair.hallucinated)
    assert len(seen) > 2


def test_the_first_caption_that_names_an_object_is_taken():
    captions = {"0": ["A quiet day.", "A dog in the sun."], "2": ["A traffic light."], "3": ["Nothing here."]}
    pairs = make_pairs(CAPTIONED, "mine", 0, captions=captions).pairs
    assert [pair.faithful for pair in pairs] == ["A dog in the sun.", "A traffic light."]
    assert pairs[1].hallucinated == "A stop sign."
    assert not {"dog", "bench"} & set(pairs[0].hallucinated.split())


def test_what_a_caption_names_stands_beside_the_rest():
    """A fork stands beside a plate, a whale never, a cup only beside the spoon that goes."""
    others = [("plate", "fork")] * 6, [("whale", "ship")] * 6, [("spoon", "cup")] * 6
    pictures = pictured(*others[0], *others[1], *others[2], *[("plate", "spoon")] * 9)
    captions = {str(number): ["A spoon lies there."] for number in range(18, 27)}
    pairs = make_pairs(pictures, "mine", 0, captions=captions).pairs
    assert {pair.hallucinated for pair in pairs} == {"A fork lies there."}


def test_what_another_caption_names_is_not_made_up():
    """The data lists a dog alone; people also see a bear, and apples."""
    pictures = pictured(("dog",), categories=("apple", "bear", "cat"))
    captions = {"0": ["A dog sits still.", "A bear and some apples."]}
    made = {make_pairs(pictures, "mine", seed, captions=captions).pairs[0].hallucinated for seed in range(12)}
    assert made == {"A cat sits still."}


@pytest.mark.parametrize(
    ("caption", "false"),
    [
        ("Two sheep stand", None),
        ("The broccoli is green", None),
        ("A sheep stands", "A frisbee stands."),
        ("AN ORANGE ON A PLATE", "A FRISBEE ON A PLATE."),
        ("AN ORANGE on a plate", "A FRISBEE on a plate."),
        ("A TV on a wall", "A Frisbee on a wall."),
        ("An Orange on a plate", "A Frisbee on a plate."),
    ],
)
def test_number_and_case_of_a_caption_are_kept(caption, false):
    """A word that does not tell its number stays, as nobody could write the other one in it."""
    pictures = pictured(("sheep", "broccoli", "orange", "tv"), ("bench",), categories=("frisbee",))
    pictures = replace(pictures, categories=tuple(name for name in pictures.categories if name != "bench"))
    captions = {"0": [caption], "1": ["A bench."]}
    made = {pair.id: pair.hallucinated for seed in range(4) for pair in pairs_of(pictures, seed, captions)}
    assert made.get("0") == false


def pairs_of(pictures, seed, captions):
    try:
        return make_pairs(pictures, "mine", seed, captions=captions).pairs
    except DataError:
        return ()


def test_captions_of_other_pictures_are_refused_as_such():
    with pytest.raises(DataError, match=r"mine: the captions are of other pictures, such as '9', and none is of '0'"):
        make_pairs(CAPTIONED, "mine", 0, captions={"9": ["A dog in the sun."]})
