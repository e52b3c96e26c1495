"""Words of a decoded text, and which tokens wrote them."""

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


@dataclass(frozen=True, slots=True)
class Word:
    """A word of an answer.

    Attributes:
        text: As written.
        tokens: 0-based indices of the tokens that wrote it.
    """

    text: str
    tokens: tuple[int, ...]

    @property
    def is_content(self) -> bool:
        """Whether it may name something in the picture: informative, no bare number or letter, not "picture" itself."""
        talks = self.text.lower() in _ABOUT_PICTURES
        return len(self.text) > 1 and not self.text.isdigit() and self.is_informative and not talks

    @property
    def is_informative(self) -> bool:
        """Whether it is of an open class (noun, verb, adjective, adverb, number): anything but a function word."""
        return self.text.lower() not in FUNCTION_WORDS


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Return a tokenizer's special tokens and their ids."""
    return {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def tokenize_answer(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text as an answer holds them; special tokens typed in it stay text."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def decode_answer(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Decode an answer; special tokens are left out, save the marks of thoughts, which tell what is no answer.

    Args:
        tokenizer: Decodes.
        token_ids: The whole answer, or its beginning.
    """
    marks = _marks(tokenizer)
    return "".join(
        "".join(marks[token] for token in run) if is_one else tokenizer.decode(list(run), skip_special_tokens=True)
        for is_one, run in groupby(token_ids, key=lambda token: token in marks)
    )


@lru_cache(maxsize=8)
def _marks(tokenizer: Any) -> dict[int, str]:
    """Return a tokenizer's special tokens that mark thoughts, by id."""
    return {index: token for token, index in special_tokens(tokenizer).items() if is_thought_mark(token)}


def split_words(tokenizer: Any, token_ids: Sequence[int]) -> tuple[Word, ...]:
    """Split a decoded text into words.

    Args:
        tokenizer: Decodes; special tokens are left out.
        token_ids: The whole answer.
    """
    return tuple(word for word, _ in locate_words(tokenizer, token_ids)[1])


def locate_words(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, list[tuple[Word, int]]]:
    """Return a decoded text, special tokens left out, and each word of it with its first character.

    Args:
        tokenizer: Decodes.
        token_ids: The whole answer.
    """
    text, spans = token_spans(tokenizer, token_ids)
    found = []
    for match in re.finditer(r"[^\W_]+(?:['’-][^\W_]+)*", text):
        tokens = tokens_in_span(spans, *match.span())
        if tokens:
            found.append((Word(match.group(), tokens), match.start()))
    return text, found


@dataclass(frozen=True, slots=True)
class Span:
    """What one token wrote.

    Attributes:
        token: Its 0-based index.
        start: Its first character in the decoded text.
        end: One past its last; tokens that write one letter together share it.
    """

    token: int
    start: int
    end: int


def token_spans(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, tuple[Span, ...]]:
    """Return a decoded text, and which token wrote what of it; special tokens are left out.

    Args:
        tokenizer: Decodes.
        token_ids: The whole answer.
    """
    read = [len(decode_answer(tokenizer, token_ids[: i + 1])) for i in range(len(token_ids))]
    ends = list(accumulate(reversed(read), min))[::-1]  # the bytes of half a letter may read as more than one
    starts = [min(low, high - 1) for low, high in zip([0, *ends], ends, strict=False)]  # more bytes of the same letter
    silent = set(special_tokens(tokenizer).values())
    spans = (Span(i, *span) for i, span in enumerate(zip(starts, ends, strict=True)) if token_ids[i] not in silent)
    return decode_answer(tokenizer, token_ids), tuple(spans)


def tokens_in_span(spans: Sequence[Span], start: int, end: int) -> tuple[int, ...]:
    """Return the tokens that wrote any of the characters from `start` up to `end`, in order."""
    return tuple(span.token for span in spans if span.start < end and span.end > start)
