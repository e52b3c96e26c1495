"""Marks on the words of an answer: supported and hallucinated objects, or signals of the model.

If the objects in a picture are known, every named object is supported or hallucinated. A denied object is not named:
"no dog" names no object, "no dog near the car" names the car. Otherwise, signals of the plain model show how much a
word depends on the picture; see `mmhall.answers.Uncertainty`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mmhall.benchmarks.data.vocabulary import Mention, mentions, own_vocabulary
from mmhall.objects.coco_words import SYNONYMS
from mmhall.words import Word, locate_words

if TYPE_CHECKING:
    from mmhall.answers import Answer, Uncertainty

TRUTH = "objects"
_CLAUSE = re.compile(r"[.;:,!?\n]|\b(?:but|and there)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:no|not|without|neither|nor|never|\w+n[’']t)\b"
    r"(?!.*\b(?:on|in|at|near|beside|next|behind|under|above|over|with|by|from|to|that|which|who|where|while)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Signal:
    """A number for every token.

    Attributes:
        name: Field of `Uncertainty` that holds the numbers.
        label: Name on the page.
        hint: Explanation for newcomers.
        unit: Unit of the numbers.
    """

    name: str
    label: str
    hint: str
    unit: str


SIGNALS = (
    Signal(
        "image_gains",
        "picture's worth",
        "How much likelier the word is with the picture than without it (log-probability gained). "
        "A word that the picture adds nothing to may be made up.",
        "nats",
    ),
    Signal(
        "image_shares",
        "attention on the picture",
        "Share of attention that falls on the picture while the word is predicted, mean over layers and heads.",
        "%",
    ),
    Signal(
        "entropies",
        "uncertainty",
        "How undecided the model is about the word: entropy of the next-token distribution.",
        "nats",
    ),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A word of an answer, or the text between two words.

    Attributes:
        text: The text.
        word: 0-based index of the word; None: text between words.
        object: The object that the word names; "" if none.
        kind: "supported" or "hallucinated" if it names an object whose truth is known, else "".
        missing_in_first: Whether it names an object that the first column does not name.
        values: Number for each of `SIGNALS`, mean over the word's tokens; None: not available.
    """

    text: str
    word: int | None = None
    object: str = ""
    kind: str = ""
    missing_in_first: bool = False
    values: tuple[float | None, ...] = ()


def named_objects(text: str, present: Collection[str] = ()) -> list[str]:
    """Return the objects that a text names, each once, in order: COCO categories and objects known to be present."""
    return list(dict.fromkeys(mention.name for mention in _mentions(text, present)))


def canonical_name(name: str) -> str:
    """Return the COCO category that a name is a synonym of, else the name itself."""
    name = " ".join(name.casefold().split())
    matches = [mention.name for mention in mentions(name) if (mention.start, mention.end) == (0, len(name))]
    return matches[0] if matches else name


def split_by_truth(
    names: Iterable[str], present: Collection[str] | None, absent: Collection[str] | None = None
) -> tuple[list[str], list[str]]:
    """Split objects into supported and hallucinated ones; see `judge_object`."""
    kinds = [(name, judge_object(name, present, absent)) for name in names]
    return [name for name, kind in kinds if kind == "supported"], [
        name for name, kind in kinds if kind == "hallucinated"
    ]


def judge_object(name: str, present: Collection[str] | None, absent: Collection[str] | None = None) -> str:
    """Return "supported", "hallucinated", or "" if the truth about an object is not known.

    Args:
        name: The object.
        present: Objects in the picture; None: not known.
        absent: Objects that are not in it; None: all others.
    """
    if present is None:
        return ""
    if name in present:
        return "supported"
    return "hallucinated" if absent is None or name in absent else ""


def pieces(
    tokenizer: Any,
    answer: Answer,
    present: Collection[str] | None,
    first: Collection[str] | None = None,
    absent: Collection[str] | None = None,
) -> tuple[Piece, ...]:
    """Split an answer into words and the text between them.

    Args:
        tokenizer: Tokenizer of the model.
        answer: The complete answer.
        present: Objects in the picture; None: not known.
        first: Objects that the first column names; None: this is the first column.
        absent: Objects that are not in it; None: all others.
    """
    text, words = _words_with_places(tokenizer, answer.token_ids)
    named = _mentions(text, present or ())
    result, at = list[Piece](), 0
    for number, (word, start) in enumerate(words):
        end = start + len(word.text)
        mention = next((mention for mention in named if mention.start < end and mention.end > start), None)
        if start > at:
            result.append(Piece(text[at:start]))
        kind = "" if mention is None else judge_object(mention.name, present, absent)
        result.append(
            Piece(
                text=word.text,
                word=number,
                object="" if mention is None else mention.name,
                kind=kind,
                missing_in_first=mention is not None and first is not None and mention.name not in first,
                values=_values(answer.uncertainty, word.tokens),
            )
        )
        at = end
    return (*result, Piece(text[at:])) if text[at:] else tuple(result)


def signal_range(columns: Sequence[Sequence[Piece]], signal: int) -> tuple[float, float] | None:
    """Return minimum and maximum of a signal over all words of all columns; None: no word has a value.

    Args:
        columns: Pieces of each column.
        signal: 0-based index in `SIGNALS`.
    """
    values = [piece.values[signal] for column in columns for piece in column if piece.values]
    numbers = [value for value in values if value is not None]
    return (min(numbers), max(numbers)) if numbers else None


@lru_cache(maxsize=64)  # finished columns are drawn again while others grow
def _words_with_places(tokenizer: Any, token_ids: tuple[int, ...]) -> tuple[str, list[tuple[Word, int]]]:
    return locate_words(tokenizer, token_ids)


def _mentions(text: str, present: Collection[str]) -> list[Mention]:
    """Find the objects that a text names without denying them: COCO categories and objects known to be present."""
    vocabulary = own_vocabulary("", (*SYNONYMS, *sorted(set(present) - set(SYNONYMS))))
    return [
        mention for mention in vocabulary.mentions(text) if not _DENIED.search(_CLAUSE.split(text[: mention.start])[-1])
    ]


def _values(uncertainty: Uncertainty | None, tokens: Sequence[int]) -> tuple[float | None, ...]:
    if uncertainty is None:
        return ()
    signals = (getattr(uncertainty, signal.name) for signal in SIGNALS)
    return tuple(
        None if numbers is None else sum(numbers[token] for token in tokens) / len(tokens) for numbers in signals
    )
