"""Which words of ours name an object: those of the original, but for its slips."""

from __future__ import annotations

import pytest

from mmhall.benchmarks.data.coco_words import SYNONYMS
from mmhall.benchmarks.data.vocabulary import mentions, synonyms
from mmhall.plurals import plural


def named(text):
    return [mention.name for mention in mentions(text)]


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("two men, gentlemen, policemen and grandchildren", ["person"] * 4),
        ("a bus and two buses", ["bus", "bus"]),
        ("vases, canoes, ties, knives, thieves", ["vase", "boat", "tie", "knife", "person"]),
        ("a motor bike and motor cycles", ["motorcycle", "motorcycle"]),
        ("cheesecakes", ["cake"]),
        ("an iPhone and smartphones", ["cell phone", "cell phone"]),
        ("a racquet, a hair dryer, a hotdog", ["tennis racket", "hair drier", "hot dog"]),
        ("a stuffed bear", ["teddy bear"]),
        ("a toilet bowl and the toilet seat", ["toilet", "toilet"]),
        ("a microwave oven", ["microwave"]),
        ("orange juice", []),
    ],
)
def test_what_the_original_loses_or_mistakes_is_found(text, objects):
    assert named(text) == objects


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("pedestrians, surfers, tourists, toddlers and a nurse", []),
        ("several vehicles, a tram, an armchair, plants, a parasol", []),
        ("a cutting board, a game of baseball, his mitt and his bat", []),
        ("a monitor, a recliner, a notebook, a container", ["tv", "couch", "laptop", "bowl"]),
        ("a bow, a wallet, a longboard, a trolley", ["tie", "handbag", "surfboard", "bus"]),
        ("a pickup truck, a tabby cat", ["truck", "truck", "cat", "cat"]),
        ("a computer keyboard, a computer mouse", ["laptop", "keyboard", "laptop", "mouse"]),
        ("a train station, a bus stop, a ski slope, toilet paper", ["train", "bus", "skis", "toilet"]),
        ("train tracks and home plate", []),
        ("a baby zebra, adult sheep, baby animals", ["zebra", "sheep"]),
        ("skiing and seated, a bedroom", []),
        ("a bow tie, a passenger train, wine glasses", ["tie", "train", "wine glass"]),
        ("a toilet with its seat up", ["toilet"]),
        ("a seat", ["chair"]),
    ],
)
def test_what_counts_is_what_the_original_counts(text, objects):
    assert named(text) == objects


def test_every_word_names_one_object_alone_and_in_plural():
    claimed: dict[str, str] = {}
    for name in SYNONYMS:
        for word in [name, *synonyms(name)]:
            assert claimed.setdefault(word, name) == name, word
            assert set(named(f"some {word}")) == {name}, word
            assert set(named(f"some {plural(word)}")) == {name}, word


def test_words_of_other_scripts_are_whole():
    assert named("ein Bär, naïve dogs, hotdogs, 犬") == ["dog", "hot dog"]


@pytest.mark.parametrize(
    ("one", "many"),
    [("serviceman", "servicemen"), ("grandchild", "grandchildren"), ("human", "humans"), ("teddy bear", "teddy bears")],
)
def test_plurals(one, many):
    assert plural(one) == many
