"""Yes/no answers: does a method tell yes from no better, or does it only say yes more or less often?

Score      s = log P(yes) - log P(no) of the first token, each summed over its spellings (`yes_no_tokens`). It is
           stored with the answer; what a method rules out has probability 0.
Controls   The baseline's scores, shifted: yes where s + b > 0. *equal yes share*: b gives as many yes as the method.
           *best threshold*: b gives the most right answers; of several, the one nearest to 0. Both are fitted on half
           of the pictures and applied to the other, each way. Nothing is generated for them. With a
           sampled baseline there are none: a threshold draws nothing, which is another decoding rule.
Ranking    AUROC of s: the share of pairs of a yes question and a no question in which that of the yes question is
           larger. No threshold changes it. A method that rules out implausible tokens makes ties, which count half and
           lower it; so does the control `apc`, which does nothing else.
Verdict    "ranks better": AUROC is above the baseline's, and the primary metric above that of equal yes share.
           "only shifts": better than the baseline, not than equal yes share. "no gain": not better than the baseline.
           Else "undecided". Each comparison is paired, and corrected for the strategies of the table (Holm).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmhall.benchmarks.base import Array, Benchmark, Counts, Item, share_equal
from mmhall.benchmarks.evidence.halves import halves
from mmhall.benchmarks.evidence.outcomes import Outcomes, outcomes_of
from mmhall.benchmarks.rules.yes_bias import best_balanced_accuracy
from mmhall.results.separation import Auroc, Separation
from mmhall.results.statistics import Difference, Estimate, Resampler
from mmhall.results.store import Row
from mmhall.results.thresholds import best_shift, shift_to_share

if TYPE_CHECKING:
    from torch import Tensor

    from mmhall.adapters import Adapter

SCORE = "yes_score"  # in `Row.extra`
SHIFTED, TUNED = "equal yes share", "best threshold"
_LARGEST = 1e4  # JSON has no infinity


def yes_score(adapter: Adapter, scores: Tensor) -> float | None:
    """Return log P(yes) - log P(no) from the scores of a first token; None where it is not known.

    Args:
        adapter: The model.
        scores: (vocabulary,).
    """
    from mmhall.strategies import why_no_yes_no, yes_no_tokens  # reading stored scores needs no torch

    if why_no_yes_no(adapter) is not None:
        return None
    margin = float(yes_no_tokens(adapter).margin(scores.double()))
    return None if math.isnan(margin) else max(-_LARGEST, min(_LARGEST, margin))


def stored_scores(rows: Sequence[Row]) -> Array | None:
    """Return the scores stored with answers, (answers,); None if one has none."""
    scores = [(row.extra or {}).get(SCORE) for row in rows]
    return None if any(score is None for score in scores) else np.array(scores, np.float64)


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well a strategy's scores tell yes questions from no questions, whatever the threshold.

    Attributes:
        own: AUROC of the strategy's scores.
        base: AUROC of the baseline's.
        difference: Strategy minus baseline; None: no value.
        shifted: Figure of the strategy minus that of *equal yes share*; None: the baseline is not shifted.
        best_balanced: Best mean of both classes' accuracies that a threshold can give, by the strategy's answers; see
            `mmhall.benchmarks.rules.yes_bias`. None: no value.
        base_best_balanced: The same by the baseline's answers.
    """

    own: Estimate
    base: Estimate
    difference: Difference | None
    shifted: Difference | None = None
    best_balanced: float | None = None
    base_best_balanced: float | None = None


def shifted_counts(
    benchmark: Benchmark, items: Sequence[Item], base: Sequence[Row], methods: Mapping[str, Sequence[Row]]
) -> dict[str, dict[str, list[Counts]]]:
    """Return the counts of both controls for each method; none without scores of the baseline.

    Args:
        benchmark: The benchmark.
        items: Items of the group.
        base: The baseline's answers, in the order of the items.
        methods: Method to its answers.
    """
    scores = stored_scores(base)
    if scores is None or not methods:  # also without yes/no answers: they alone have scores
        return {}
    outcomes = {name: outcomes_of(items, benchmark.counts(items, rows)) for name, rows in methods.items()}
    first = next(iter(outcomes.values()))
    sides = [[index for index in half if first.counted[index]] for half in halves(items)]
    if len(sides) < 2 or not all(sides):
        return {}

    def counted(fit: Callable[[Sequence[int]], float]) -> list[Counts]:
        shifts = np.zeros(len(items))
        for fitted, tested in (sides, sides[::-1]):
            shifts[tested] = fit(fitted)
        yes = scores + shifts > 0
        answers = [replace(row, text="Yes" if y else "No") for row, y in zip(base, yes, strict=True)]
        return share_equal(benchmark.counts(items, answers))

    def as_often(yes: npt.NDArray[np.bool_], half: Sequence[int]) -> float:
        share = float(yes[half].mean())
        return shift_to_share(scores[half], share) if 0 < share < 1 else math.inf if share else -math.inf

    tuned = counted(lambda half: best_shift(scores[half], first.is_yes[half]))
    return {name: {SHIFTED: counted(partial(as_often, o.says_yes)), TUNED: tuned} for name, o in outcomes.items()}


def rankings(
    rows: Mapping[str, Sequence[Row]], outcomes: Mapping[str, Outcomes], resampler: Resampler
) -> dict[str, Auroc]:
    """Return the AUROC of each strategy's scores, of those that have some.

    Args:
        rows: Strategy to its answers, in the order of the items of a group.
        outcomes: Strategy to the outcomes of these answers.
        resampler: The bootstrap draws of the group.
    """
    scored = {name: scores for name in outcomes if (scores := stored_scores(rows[name])) is not None}
    if not scored:
        return {}
    first = next(iter(outcomes.values()))
    asked = np.flatnonzero(first.counted)
    positive = first.is_yes[asked]
    if positive.all() or not positive.any():
        return {}
    separation = Separation(resampler, asked, positive)
    return {name: separation.auroc(scores[asked]) for name, scores in scored.items()}


def best_balanced(outcomes: Outcomes) -> float | None:
    """Return the best balanced accuracy that a threshold can give, by these answers; None without both labels."""
    yes, no = outcomes.counted & outcomes.is_yes, outcomes.counted & ~outcomes.is_yes
    said, hits = outcomes.says_yes.sum(), (outcomes.says_yes & yes).sum()
    value = float(best_balanced_accuracy(*(np.asarray(n, np.float64) for n in (hits, yes.sum(), said, no.sum()))))
    return None if math.isnan(value) else value
