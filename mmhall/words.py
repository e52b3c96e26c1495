"""Words of a decoded text, and the tokens of each word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby
from typing import Any

from mmhall.thoughts import is_thought_mark

FUNCTION_WORDS = frozenset(
    re.findall(
        r"[a-z]+",
        """a about above across after again against all also although am among an and another any are around as
        at away be because been before behind being below beneath beside besides between both but by can
        cannot could did do does doing down during each either else every few for from further had has have
        having he her here hers herself him himself his how i if in inside into is it its itself just least
        less like may me might more most much must my near neither no nor not of off on once one only onto
        or other others our ours out outside over own please same she should since so some such than that
        the their theirs them themselves then there these they this those through to together too toward
        towards under until up upon us very was we were what when where whether which while who whom whose
        why will with within without would yes you your yours""",
    )
)
_ABOUT_PICTURES = frozenset(
    ("describe", "get", "gets", "give", "image", "photo", "photograph", "picture", "scene", "show", "shows")
)

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of an answer.

    Attributes:
        text: The word as written.
        tokens: 0-based indices of its tokens.
    """

    text: str
    tokens: tuple[int, ...]

    @property
    def is_content(self) -> bool:
        """Whether the word may name something in the picture.

        It is informative, neither a number nor a single letter, and not a word such as "picture" itself.
        """
        about_pictures = self.text.lower() in _ABOUT_PICTURES
        return len(self.text) > 1 and not self.text.isdigit() and self.is_informative and not about_pictures

    @property
    def is_informative(self) -> bool:
        """Whether the word is not a function word: a noun, verb, adjective, adverb or number."""
        return self.text.lower() not in FUNCTION_WORDS


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Return a tokenizer's special tokens and their ids."""
    return {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def tokenize_answer(tokenizer: Any, text: str) -> list[int]:
    """Tokenise a text as part of an answer: no special tokens are added, and typed special tokens stay text."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def decode_answer(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Decode an answer without special tokens, except marks of thoughts, which separate thoughts from the answer.

    Args:
        tokenizer: Tokenizer of the model.
        token_ids: The whole answer, or its beginning.
    """
    marks = _thought_marks(tokenizer)
    return "".join(
        "".join(marks[token] for token in run) if are_marks else tokenizer.decode(list(run), skip_special_tokens=True)
        for are_marks, run in groupby(token_ids, key=lambda token: token in marks)
    )


@lru_cache(maxsize=8)
def _thought_marks(tokenizer: Any) -> dict[int, str]:
    """Return a tokenizer's special tokens that mark thoughts, by id."""
    return {index: token for token, index in special_tokens(tokenizer).items() if is_thought_mark(token)}


def split_words(tokenizer: Any, token_ids: Sequence[int]) -> tuple[Word, ...]:
    """Split an answer into words, without special tokens.

    Args:
        tokenizer: Tokenizer of the model.
        token_ids: The whole answer.
    """
    return tuple(word for word, _ in locate_words(tokenizer, token_ids)[1])


def locate_words(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, list[tuple[Word, int]]]:
    """Return the decoded answer, without special tokens, and its words, each with the index of its first character.

    Args:
        tokenizer: Tokenizer of the model.
        token_ids: The whole answer.
    """
    text, spans = token_spans(tokenizer, token_ids)
    words = []
    for match in _WORD.finditer(text):
        tokens = tokens_in_span(spans, *match.span())
        if tokens:
            words.append((Word(match.group(), tokens), match.start()))
    return text, words


def find_words(text: str) -> list[tuple[str, int]]:
    """Return the words of a text, each with the index of its first character.

    >>> find_words("A dog; the dog's ball.")
    [('A', 0), ('dog', 2), ('the', 7), ("dog's", 11), ('ball', 17)]
    """
    return [(match.group(), match.start()) for match in _WORD.finditer(text)]


def content_words(text: str) -> frozenset[str]:
    """Return the words of a text, in lower case, without function words.

    >>> sorted(content_words("A dog; the Dog's ball"))
    ['ball', 'dog', "dog's"]
    """
    return frozenset(word.lower() for word in _WORD.findall(text)) - FUNCTION_WORDS


def final_word(text: str) -> str:
    """Return the word at the very end of a text; "" if the text ends with none.

    >>> final_word("A hot-air balloon"), final_word("A dog.")
    ('balloon', '')
    """
    start = max(text.rfind(space) for space in (" ", "\n", "\t")) + 1
    matches = [match for match in _WORD.finditer(text, start) if match.end() == len(text)]
    return matches[0].group() if matches else ""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of one token in a decoded text.

    Attributes:
        token: 0-based index of the token.
        start: Index of its first character.
        end: Index after its last character; tokens that together encode one character share that character.
    """

    token: int
    start: int
    end: int


def token_spans(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, tuple[Span, ...]]:
    """Return the decoded answer and the span of each token, without special tokens.

    Args:
        tokenizer: Tokenizer of the model.
        token_ids: The whole answer.
    """
    lengths = [len(decode_answer(tokenizer, token_ids[: i + 1])) for i in range(len(token_ids))]
    ends = list(accumulate(reversed(lengths), min))[::-1]  # an incomplete character may decode to several characters
    starts = [min(low, high - 1) for low, high in zip([0, *ends], ends, strict=False)]  # bytes of the same character
    special = set(special_tokens(tokenizer).values())
    spans = (Span(i, *span) for i, span in enumerate(zip(starts, ends, strict=True)) if token_ids[i] not in special)
    return decode_answer(tokenizer, token_ids), tuple(spans)


def tokens_in_span(spans: Sequence[Span], start: int, end: int) -> tuple[int, ...]:
    """Return the tokens with any character from `start` up to `end`, excluded, in order."""
    return tuple(span.token for span in spans if span.start < end and span.end > start)
