"""Words of an answer and the tokens that wrote them."""

from __future__ import annotations

import pytest

from mmhall.words import Word, words_of
from tests.zoo.common import make_tokenizer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog.", [("A", (0,)), ("dog", (2, 3, 4))]),
        ("two  cups", [("two", (0, 1, 2)), ("cups", (5, 6, 7, 8))]),
        ("t-shirt's", [("t-shirt's", tuple(range(9)))]),
        ("", []),
        ("...", []),
    ],
)
def test_words_know_their_tokens(text, words):
    tokenizer = make_tokenizer()
    assert words_of(tokenizer, tokenizer(text).input_ids) == tuple(Word(*word) for word in words)


def test_a_letter_of_several_bytes_belongs_to_one_word():
    tokenizer = make_tokenizer()
    (word,) = words_of(tokenizer, tokenizer("épée").input_ids)
    assert word.text == "épée"
    assert word.tokens[-1] == 5


def test_special_tokens_write_no_words():
    tokenizer = make_tokenizer()
    assert [word.text for word in words_of(tokenizer, tokenizer("dog</s>cat").input_ids)] == ["dogcat"]


def test_words_of_the_embedded_model(embedded):
    """Its tokens are whole words."""
    tokenizer = embedded.adapter.tokenizer
    words = words_of(tokenizer, tokenizer("There is a dog near the car .", add_special_tokens=False).input_ids)
    assert [word.text for word in words if word.is_content] == ["dog", "car"]


@pytest.mark.parametrize("text", ["The", "image", "3", "x", "there", "near"])
def test_function_words_are_no_content(text):
    assert not Word(text, (0,)).is_content


@pytest.mark.parametrize("text", ["dog", "Kitchen", "t-shirt", "left"])
def test_names_of_things_are_content(text):
    assert Word(text, (0,)).is_content
