"""Hallucination in captions: how much, at which place, and how sure the model is of it.

CHAIR_i, recall   as `mmhall bench chair` counts them.
First over last   The share of hallucinated mentions in first sentences, over that in last sentences; captions of at
                  least two finished sentences. Near 0: the model hallucinates at the end only, which shorter captions
                  would mend.
Last dropped      CHAIR_i of the captions without their last sentence, over that of the whole captions, minus 1.
Growth            The share of hallucinated mentions in the later half of a caption's mentions, minus that in the
                  earlier half (of an odd number, the middle one counts as earlier); and the share of the first
                  mention, of the second and so on.
Entropy           AUROC of the entropy, at the first token of a mention, of the distribution it was chosen from:
                  hallucinated mentions against true ones. Near 1: the model is unsure where it hallucinates, so that a
                  threshold on its certainty would mend it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mmhall.analysis import AnswerScores
from mmhall.answers import Answer
from mmhall.benchmarks.base import Counts, Item
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.data.vocabulary import Mention, item_vocabulary
from mmhall.benchmarks.diagnosis.figures import HALLUCINATION, Figure, UnmeasuredError, of_metric, relative
from mmhall.benchmarks.evidence.mentions import tokens_of
from mmhall.benchmarks.rules.length import drop_sentences, sentence_ends
from mmhall.benchmarks.rules.thoughts import blank_thoughts
from mmhall.results.separation import Separation
from mmhall.results.statistics import Resampler, ratio

_PLACES = 8  # of mentions that are told apart


@dataclass(frozen=True, slots=True, eq=False)
class Caption:
    """A caption of the model.

    Attributes:
        item: The picture and its objects, an item of `Chair`.
        answer: The answer.
        scores: The plain model's scores of the answer; None for an empty one.
    """

    item: Item
    answer: Answer
    scores: AnswerScores | None = None

    @property
    def text(self) -> str:
        """The caption, with blanks for a model's thoughts."""
        return blank_thoughts(self.answer.text)

    @property
    def mentions(self) -> list[Mention]:
        """The objects it names, in order."""
        return item_vocabulary(self.item.truth).mentions(self.text)

    def is_absent(self, mention: Mention) -> bool:
        """Whether a mention is hallucinated."""
        return mention.name not in self.item.truth["objects"]


def hallucination(captions: Sequence[Caption]) -> Iterator[Figure]:
    """Yield the figures that need no more than the texts of the captions."""
    chair = Chair()
    metrics = {metric.name: metric for metric in chair.metrics}
    draws = Resampler([caption.item.cluster for caption in captions])
    counts = [chair.count(caption.item, caption.text) for caption in captions]
    for key, name, title in (
        ("chair_i", "CHAIR_i", "CHAIR_i: hallucinated among named"),
        ("chair_s", "CHAIR_s", "CHAIR_s: captions with hallucination"),
        ("recall", "recall", "recall: present objects that are named"),
        ("words", "words", "words per caption"),
    ):
        yield of_metric(key, metrics[name], title, counts, draws)
    sides = [_first_and_last(caption) for caption in captions]
    sums = [np.array([side[name] for side in sides], np.float64) for name in sides[0]]
    longer = sum(len(sentence_ends(caption.text)) > 1 for caption in captions)
    yield Figure(
        "first_over_last",
        HALLUCINATION,
        "hallucinated: first over last sentence",
        draws.estimate_of(relative, sums),
        percent=False,
        note=f"first {_share(sums[0], sums[1])}, last {_share(sums[2], sums[3])}, of {longer} captions with several",
    )
    shorter = [chair.count(caption.item, drop_sentences(caption.text, 1)) for caption in captions]
    terms = [*metrics["CHAIR_i"].terms(shorter), *metrics["CHAIR_i"].terms(counts)]
    yield Figure(
        "last_dropped",
        HALLUCINATION,
        "CHAIR_i without last sentence, change",
        draws.estimate_of(lambda *sums: relative(*sums) - 1, terms),
    )


def growth(captions: Sequence[Caption]) -> Figure:
    """Return how much the share of hallucinated mentions grows with their place in the caption.

    Raises:
        UnmeasuredError: No caption has two mentions.
    """
    marks = [np.array([caption.is_absent(mention) for mention in caption.mentions], np.float64) for caption in captions]
    if not any(len(absent) > 1 for absent in marks):
        raise UnmeasuredError("no caption names two objects")
    draws = Resampler([caption.item.cluster for caption in captions])
    parts = [absent[half] for absent in marks for half in _halves(len(absent))]
    sums = [np.array([part.sum() for part in parts]), np.array([len(part) for part in parts], np.float64)]
    early, late = ([values[side::2] for values in sums] for side in (0, 1))
    places = [_at_place(marks, place) for place in range(_PLACES)]
    return Figure(
        "growth",
        HALLUCINATION,
        "hallucinated: later minus earlier half",
        draws.estimate_of(lambda a, n, b, m: ratio(a, n) - ratio(b, m), [*late, *early]),
        note=f"earlier half {_share(*early)}, later half {_share(*late)}",
        places=tuple(
            (f"{place + 1}{'+' * (place == _PLACES - 1)}", draws.estimate(over, under))
            for place, (over, under) in enumerate(places)
            if under.sum()
        ),
    )


def _halves(count: int) -> tuple[slice, slice]:
    """Return the earlier and the later half of some mentions; both empty for fewer than two."""
    return (slice((count + 1) // 2), slice((count + 1) // 2, None)) if count > 1 else (slice(0), slice(0))


def _at_place(marks: Sequence[np.ndarray], place: int) -> tuple[np.ndarray, np.ndarray]:
    """Count hallucinated and all mentions at one place of each caption; at the last place, also all later ones."""
    wanted = slice(place, None if place == _PLACES - 1 else place + 1)
    return np.array([m[wanted].sum() for m in marks]), np.array([len(m[wanted]) for m in marks], np.float64)


def entropy(captions: Sequence[Caption], tokenizer: object) -> Figure:
    """Return the AUROC of the entropy at hallucinated mentions against true ones.

    Args:
        captions: Captions with scores.
        tokenizer: The model's tokenizer.
    """
    captions = [caption for caption in captions if caption.scores is not None]
    values: list[float] = []
    absent: list[bool] = []
    items: list[int] = []
    for number, caption in enumerate(captions):
        assert caption.scores is not None
        places = tokens_of(tokenizer, caption.answer, caption.mentions)
        for mention, tokens in zip(caption.mentions, places, strict=True):
            values.append(caption.scores.uncertainty.entropies[tokens[0]])
            absent.append(caption.is_absent(mention))
            items.append(number)
    draws = Resampler([caption.item.cluster for caption in captions])
    separation = Separation(draws, np.array(items, np.intp), np.array(absent, bool))
    return Figure(
        "entropy_auroc",
        HALLUCINATION,
        "AUROC of entropy, hallucinated or true",
        separation.auroc(np.array(values, np.float64)).estimate(),
        note=f"{sum(absent)} hallucinated mentions, {len(absent) - sum(absent)} true ones",
    )


def _first_and_last(caption: Caption) -> Counts:
    """Count hallucinated and all mentions of the first and the last finished sentence; 0 with one sentence."""
    ends = sentence_ends(caption.text)
    counted = dict.fromkeys(("first absent", "first named", "last absent", "last named"), 0.0)
    if len(ends) < 2:
        return counted
    spans = {"first": (0, ends[0]), "last": list(pairwise(ends))[-1]}
    for mention in caption.mentions:
        for side, (start, end) in spans.items():
            if start <= mention.start < end:
                counted[f"{side} named"] += 1
                counted[f"{side} absent"] += caption.is_absent(mention)
    return counted


def _share(over: np.ndarray, under: np.ndarray) -> str:
    return f"{over.sum() / under.sum():.1%}" if under.sum() else "none named"
