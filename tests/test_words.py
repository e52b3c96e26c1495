"""Words of an answer and the tokens that wrote them."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from mmhall.words import Word, split_words
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
    assert split_words(tokenizer, tokenizer(text).input_ids) == tuple(Word(*word) for word in words)


def test_a_letter_of_several_bytes_belongs_to_one_word():
    tokenizer = make_tokenizer()
    (word,) = split_words(tokenizer, tokenizer("épée").input_ids)
    assert word.text == "épée"
    assert word.tokens[-1] == 5


def fallback():
    """Letters, and bytes for what has no token, as Llama's; half a letter reads as one sign a byte."""
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {
        token: index for index, token in enumerate(["<unk>", *letters, *(f"<0x{i:02X}>" for i in range(256))])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("make", [make_tokenizer, fallback])
@pytest.mark.parametrize("text", ["né", "木", "木 né", "naïve café", "un café.", "🐈木 a", "a 木木 b"])
def test_a_words_last_letter_may_be_of_several_bytes(make, text):
    tokenizer = make()
    ids = tokenizer(text).input_ids
    words = split_words(tokenizer, ids)
    assert [tokenizer.decode([ids[at] for at in word.tokens]) for word in words] == [word.text for word in words]


def test_special_tokens_write_no_words():
    tokenizer = make_tokenizer()
    (word,) = split_words(tokenizer, tokenizer("dog</s>cat").input_ids)
    assert word == Word("dogcat", (0, 1, 2, 4, 5, 6))


def test_words_of_the_embedded_model(embedded):
    """Its tokens are whole words."""
    tokenizer = embedded.adapter.tokenizer
    words = split_words(tokenizer, tokenizer("There is a dog near the car .", add_special_tokens=False).input_ids)
    assert [word.text for word in words if word.is_content] == ["dog", "car"]


@pytest.mark.parametrize("text", ["The", "image", "3", "x", "there", "near"])
def test_function_words_are_no_content(text):
    assert not Word(text, (0,)).is_content


@pytest.mark.parametrize("text", ["dog", "Kitchen", "t-shirt", "left"])
def test_names_of_things_are_content(text):
    assert Word(text, (0,)).is_content
