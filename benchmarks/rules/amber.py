"""AMBER's scoring: the assignment of nouns to objects, and the figures of the authors' script to the digit.

All functions are pure; the word table, the neutral words and the similarity function are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import eq
from typing import Literal

YesNo = Literal["Yes", "No"]
Similarity = Callable[[str, str], float]

SIMILAR = 0.8
START = 0.001  # where the authors' denominators start
DIMENSIONS = ("overall", "existence", "attribute", "state", "number", "action", "relation")
_OF_TYPE = {
    "discriminative-hallucination": ("existence",),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
}


def dimensions(kind: str) -> tuple[str, ...]:
    """Return the dimensions of a question type; unknown types belong to "relation".

    >>> dimensions("discriminative-attribute-state"), dimensions("relation")
    (('overall', 'attribute', 'state'), ('overall', 'relation'))
    """
    return ("overall", *_OF_TYPE.get(kind, ("relation",)))


def identity(a: str, b: str) -> float:
    """Return the similarity of two words without word vectors: 1 for equal words, else 0."""
    return float(a == b)


@dataclass(frozen=True, slots=True)
class NounMarks:
    """The result of assigning the nouns of one caption.

    Attributes:
        hallucinated: For each noun, whether it matches no object in the picture.
        covered: For each object in the picture, whether a noun matches it.
        foreseen: For each object expected to be hallucinated, whether a noun matches it.
    """

    hallucinated: tuple[bool, ...]
    covered: tuple[bool, ...]
    foreseen: tuple[bool, ...]


def mark_nouns(
    nouns: Sequence[str],
    truth: Sequence[str],
    hallu: Sequence[str],
    associations: Mapping[str, Sequence[str]],
    neutral: Iterable[str],
    similarity: Similarity = identity,
) -> NounMarks:
    """Assign each noun to an object, as the authors' script does.

    The words of a list are the associations of each of its objects, then all objects. The first word that
    is equal, or else similar, counts: an association of another object often comes before the object itself,
    and of an object listed twice only the first one is marked.

    Args:
        nouns: Nouns of the vocabulary, in order, repeats included.
        truth: Objects in the picture.
        hallu: Objects that models tend to hallucinate.
        associations: Object to words that may name it.
        neutral: Words that are never hallucinated and cover nothing.
        similarity: Similarity of two words; above 0.8 they count as one.
    """
    safe, unsafe = _owned_words(truth, associations), _owned_words(hallu, associations)
    neutral = frozenset(neutral)
    covered, foreseen = [False] * len(truth), [False] * len(hallu)

    def alike(noun: str, word: str) -> bool:
        return similarity(noun, word) > SIMILAR

    def fine(noun: str) -> bool:
        if noun in neutral:
            return True
        if _claim(safe, noun, eq, covered):
            return True
        _claim(unsafe, noun, eq, foreseen)
        _claim(unsafe, noun, alike, foreseen)
        return _claim(safe, noun, alike, covered)

    hallucinated = tuple(not fine(noun) for noun in nouns)
    return NounMarks(hallucinated, tuple(covered), tuple(foreseen))


def _owned_words(objects: Sequence[str], associations: Mapping[str, Sequence[str]]) -> list[tuple[str, int]]:
    """List the words of objects, each with the index of its object: associations first."""
    words = [(word, i) for i, name in enumerate(objects) for word in associations[name]]
    return words + [(name, i) for i, name in enumerate(objects)]


def _claim(words: Sequence[tuple[str, int]], noun: str, like: Callable[[str, str], bool], marks: list[bool]) -> bool:
    """Mark the object of the first matching word; return whether a word matches."""
    for word, owner in words:
        if like(noun, word):
            marks[owner] = True
            return True
    return False


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of the authors' script for yes/no answers, in percent with one decimal; "no" is the positive class."""

    accuracy: float
    precision: float
    recall: float
    f1: float


def official_figures(answers: Iterable[tuple[str, YesNo, YesNo | None]]) -> dict[str, Figures]:
    """Compute the discriminative figures as the authors' script does, rounding before combining.

    Denominators start at 0.001, so that a hundred right answers out of a hundred are 99.999 %.

    Args:
        answers: Type of the question, label, parsed answer (None: neither Yes nor No).

    Returns:
        Figures by dimension of `DIMENSIONS`.
    """
    sums = {name: _Sums() for name in DIMENSIONS}
    for kind, truth, answer in answers:
        for name in dimensions(kind):
            sums[name].add(truth, answer)
    return {name: of.figures(0.001 if name == "existence" else 0.0001) for name, of in sums.items()}


@dataclass(slots=True)
class _Sums:
    asked: float = START
    said_no: float = START
    is_no: float = START
    right: int = 0
    both: int = 0

    def add(self, truth: YesNo, answer: YesNo | None) -> None:
        self.asked += 1
        self.said_no += answer == "No"
        self.is_no += truth == "No"
        self.right += truth == answer
        self.both += truth == answer == "No"

    def figures(self, epsilon: float) -> Figures:
        accuracy, precision, recall = (
            round(over / under * 100, 1)
            for over, under in ((self.right, self.asked), (self.both, self.said_no), (self.both, self.is_no))
        )
        f1 = 2 * (precision / 100) * (recall / 100) / (precision / 100 + recall / 100 + epsilon)
        return Figures(accuracy, precision, recall, round(f1 * 100, 1))


@dataclass(frozen=True, slots=True)
class CaptionFigures:
    """Figures of the authors' script for captions, in percent with one decimal."""

    chair: float
    cover: float
    hal: float
    cog: float


def official_caption_figures(captions: Iterable[NounMarks]) -> CaptionFigures:
    """Compute the generative figures as the authors' script does: over all captions, denominators start at 0.001."""
    nouns = objects = expected = texts = START
    absent = covered = foreseen = clean = 0
    for marked in captions:
        nouns += len(marked.hallucinated)
        objects += len(marked.covered)
        expected += len(marked.foreseen)
        texts += 1
        absent += sum(marked.hallucinated)
        covered += sum(marked.covered)
        foreseen += sum(marked.foreseen)
        clean += not any(marked.hallucinated)
    return CaptionFigures(
        round(absent / nouns * 100, 1),
        round(covered / objects * 100, 1),
        round(100 - clean / texts * 100, 1),
        round(foreseen / expected * 100, 1),
    )


def amber_score(chair: float, f1: float) -> float:
    """Combine CHAIR of the captions and overall F1 of the yes/no answers, both in percent.

    Published for LLaVA-1.5-7B: CHAIR 7.8 and F1 74.7 give 83.5.

    >>> round(amber_score(7.8, 74.7), 1)
    83.5
    """
    return (100 - chair + f1) / 2
