"""Words and sentences as the Treebank has them, case by case."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, strategies as st

from mmhall.benchmarks.rules.tokens import sentences, tokenize

PIECES = [
    *"a'\".,:;-()[]{}<>!?*&/ \n3",
    "dog",
    "dogs",
    "n't",
    "'s",
    "cannot",
    "wanna",
    "'tis",
    "``",
    "''",
    "--",
    "..",
    "’“”‘",
    "İ",
    "é",
]


def words(text):
    return [token.text for token in tokenize(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A Dog.", ["a", "dog", "."]),
        ("the table.the cup", ["the", "table.the", "cup"]),
        ("a t.v. on", ["a", "t.v", ".", "on"]),
        ("dogs,cats, 3,5 and 10:30", ["dogs", ",", "cats", ",", "3,5", "and", "10:30"]),
        ("wait... a dog", ["wait", "...", "a", "dog"]),
        ("50% off; #1 & $3 @ us!?", ["50", "%", "off", ";", "#", "1", "&", "$", "3", "@", "us", "!", "?"]),
        ("(a) [b] {c} <d> *e*", [*"(a)", *"[b]", *"{c}", *"<d>", *"*e*"]),
        ("dog--cat", ["dog", "--", "cat"]),
        ("a bed/desk, a double-decker", ["a", "bed/desk", ",", "a", "double-decker"]),
        ("the dog's ball isn't ours", ["the", "dog", "'s", "ball", "is", "n't", "ours"]),
        ("they'll see we're fine, I've", ["they", "'ll", "see", "we", "'re", "fine", ",", "i", "'ve"]),
        ("the dogs' ball", ["the", "dogs", "'", "ball"]),
        ("a sign that says 'stop'.", ["a", "sign", "that", "says", "'stop", "'", "."]),
        ('it says "stop" here', ["it", "says", "``", "stop", "''", "here"]),
        ("“stop” – the man’s", ["“", "stop", "”", "–", "the", "man", "’", "s"]),
        ("I cannot, wanna go, 'tis", ["i", "can", "not", ",", "wan", "na", "go", ",", "'t", "is"]),
        ("It ends. (Yes.) Then", ["it", "ends", ".", "(", "yes", ".", ")", "then"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_words(text, wanted):
    assert words(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a dog. a cat? yes! no", ["a dog.", "a cat?", "yes!", "no"]),
        ('he said "yes." then', ['he said "yes."', "then"]),
        ("dr. who and mr. t. went", ["dr. who and mr. t. went"]),
        ("1. a dog 2. a cat", ["1. a dog 2. a cat"]),
        ("in 2010. 3 dogs", ["in 2010.", "3 dogs"]),
        ("wait... a dog", ["wait... a dog"]),
        ("table.the cup", ["table.the cup"]),
    ],
)
def test_sentences(text, wanted):
    assert [text[start:end] for start, end in sentences(text)] == wanted


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join) | st.text(max_size=40))
def test_tokens_are_all_of_a_text_but_its_blanks(text):
    """Nothing is lost, doubled or moved: the tokens' characters are the text without white space."""
    found = tokenize(text)
    assert "".join(text[t.start : t.end] for t in found) == "".join(text.split())
    assert [t.start for t in found] == sorted(t.start for t in found)
    for token in found:
        shown = text[token.start : token.end]
        assert token.text == "".join(c.lower() if len(c.lower()) == 1 else c for c in shown) or shown in ('"', "''")


SIMPLE = [
    "dog",
    "can't",
    "cannot",
    "man's",
    "t.v.",
    ".",
    "...",
    ",",
    "3",
    "?",
    '"',
    "(",
    ")",
    "--",
    "’",
    "“",
    " ",
    "  ",
]


def slow_tokens(text):
    """Put white space around what is split off, one rule after another."""
    last = re.search(r"(?<=[^.])\.(?=[\])}>\"'»”’\s]*$)", text)
    text = text if last is None else f"{text[: last.start()]} . {text[last.end() :]}"
    text = re.sub(r"\.{2,}|--|[\"“’()?]", lambda m: f" {m.group()} ", text)
    text = re.sub(r",([^\d]|$)", r" , \1", text)
    text = re.sub(r"(?<=[^' ])('s|n't)(?=\s|$)", r" \1", text)
    return re.sub(r"\bcannot\b", " can not ", text).split()


def test_tokens_equal_slow_ones_in_a_thousand_sentences():
    rng = random.Random(0)
    for _ in range(1000):
        check_words(rng.choices(SIMPLE, k=rng.randrange(13)))


def check_words(pieces):
    text = re.sub(r"[.?][\"’)\s]+", lambda m: "".join(m.group().split()), "".join(pieces))
    assert ['"' if word in ("``", "''") else word for word in words(text)] == slow_tokens(text)
