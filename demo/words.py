"""Marks on the words of an answer: objects that are in the picture or not, or signals of the model on a scale.

Where it is known what a picture shows, each object named is supported or hallucinated. What an answer denies is not
named: "no dog" names none, "no dog near the car" names the car. Where the truth is not known, the plain model's own
signals say how much a word has to do with the picture; see `mmhall.answers.Uncertainty`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mmhall.benchmarks.data.coco_words import SYNONYMS
from mmhall.benchmarks.data.vocabulary import Mention, mentions, own_vocabulary
from mmhall.words import Word, placed_words

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
    """A figure of every token.

    Attributes:
        name: Of the field of `Uncertainty` that holds it.
        label: How people call it.
        hint: What it says, for somebody who has not met it.
        unit: Of the figure.
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
    """A stretch of an answer.

    Attributes:
        text: As written.
        word: 0-based number of the word it is; None: what stands between words.
        object: The object it names, "" if none.
        kind: "supported" or "hallucinated" where it names an object and the truth is known, else "".
        own: Whether it names an object that the first column does not name.
        values: Its figure for each of `SIGNALS`, mean over its tokens; None where there is none.
    """

    text: str
    word: int | None = None
    object: str = ""
    kind: str = ""
    own: bool = False
    values: tuple[float | None, ...] = ()


def named(text: str, present: Collection[str] = ()) -> list[str]:
    """Return the objects that a text names, each once, in order: COCO's, and those that are known to be there."""
    return list(dict.fromkeys(mention.name for mention in _mentions(text, present)))


def canonical(name: str) -> str:
    """Return the name by which a thing is known: that of COCO's category, if it is one in other words."""
    name = " ".join(name.casefold().split())
    found = [mention.name for mention in mentions(name) if (mention.start, mention.end) == (0, len(name))]
    return found[0] if found else name


def split_by_truth(
    names: Iterable[str], present: Collection[str] | None, absent: Collection[str] | None = None
) -> tuple[list[str], list[str]]:
    """Return which of some objects are supported, and which are hallucinated; see `judged`."""
    kinds = [(name, judged(name, present, absent)) for name in names]
    return [name for name, kind in kinds if kind == "supported"], [n for n, kind in kinds if kind == "hallucinated"]


def judged(name: str, present: Collection[str] | None, absent: Collection[str] | None = None) -> str:
    """Say what is known of an object: "supported", "hallucinated", or "" where nobody knows.

    Args:
        name: The object.
        present: Objects in the picture; None: not known.
        absent: Objects that are not; None: all others.
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
    """Cut an answer into words and what stands between them.

    Args:
        tokenizer: Wrote it.
        answer: The whole answer.
        present: Objects in the picture; None: not known.
        first: Objects that the first column names; None: this is the first column.
        absent: Objects that are not in it; None: all others.
    """
    text, words = _placed(tokenizer, answer.token_ids)
    found = _mentions(text, present or ())
    cut, at = list[Piece](), 0
    for number, (word, start) in enumerate(words):
        end = start + len(word.text)
        about = next((m for m in found if m.start < end and m.end > start), None)
        if start > at:
            cut.append(Piece(text[at:start]))
        kind = "" if about is None else judged(about.name, present, absent)
        cut.append(
            Piece(
                text=word.text,
                word=number,
                object="" if about is None else about.name,
                kind=kind,
                own=about is not None and first is not None and about.name not in first,
                values=_values(answer.uncertainty, word.tokens),
            )
        )
        at = end
    return (*cut, Piece(text[at:])) if text[at:] else tuple(cut)


def scale(columns: Sequence[Sequence[Piece]], signal: int) -> tuple[float, float] | None:
    """Return the least and the largest figure of a signal among all words of all columns; None: there are none.

    Args:
        columns: Pieces of each column.
        signal: 0-based, of `SIGNALS`.
    """
    found = [v for column in columns for piece in column if piece.values and (v := piece.values[signal]) is not None]
    return (min(found), max(found)) if found else None


@lru_cache(maxsize=64)  # columns that have ended are shown again while others are written
def _placed(tokenizer: Any, token_ids: tuple[int, ...]) -> tuple[str, list[tuple[Word, int]]]:
    return placed_words(tokenizer, token_ids)


def _mentions(text: str, present: Collection[str]) -> list[Mention]:
    """Find objects that a text does not deny: COCO's, and whatever else is known to be there."""
    known = own_vocabulary("", (*SYNONYMS, *sorted(set(present) - set(SYNONYMS))))
    return [one for one in known.mentions(text) if not _DENIED.search(_CLAUSE.split(text[: one.start])[-1])]


def _values(sure: Uncertainty | None, tokens: Sequence[int]) -> tuple[float | None, ...]:
    if sure is None:
        return ()
    told = (getattr(sure, signal.name) for signal in SIGNALS)
    return tuple(None if one is None else sum(one[token] for token in tokens) / len(tokens) for one in told)
