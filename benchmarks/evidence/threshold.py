"""Yes/no answers: does a method tell yes from no better, or does it only say yes more or less often?

Score      s = log P(yes) - log P(no) of the first token, each summed over the spellings that the tokenizer has as
           single tokens ("Yes", " yes", ...). It is stored with the answer; what a method rules out has probability 0.
Controls   The baseline's scores, shifted: yes where s + b > 0. *equal yes share*: b gives as many yes as the method.
           *best threshold*: b gives the most right answers; of several, the one nearest to 0. Both are fitted on half
           of the pictures and applied to the other, each way. Nothing is generated for them.
Ranking    AUROC of s: the share of pairs of a yes question and a no question in which that of the yes question is
           larger. No threshold changes it. A method that rules tokens out makes ties, which count half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmhall.adapters import Adapter
from mmhall.benchmarks.base import Array, Benchmark, Counts, Item
from mmhall.benchmarks.evidence.halves import halves
from mmhall.benchmarks.rules.yesno import parse_strict
from mmhall.results.separation import Auroc, Separation
from mmhall.results.statistics import Resampler
from mmhall.results.store import Row

SCORE = "yes_score"  # in `Row.extra`
SHIFTED, TUNED = "equal yes share", "best threshold"
_LARGEST = 1e4  # JSON has no infinity


def yes_score(adapter: Adapter, scores: Tensor) -> float | None:
    """Return log P(yes) - log P(no) from the scores of a first token; None without such tokens.

    Args:
        adapter: The model.
        scores: (vocabulary,).
    """
    spelled = [adapter.spellings.get(word, []) for word in ("yes", "no")]
    if not all(spelled):
        return None
    yes, no = (float(torch.logsumexp(scores[ids].double(), dim=0)) for ids in spelled)
    return None if yes == no == -math.inf else max(-_LARGEST, min(_LARGEST, yes - no))


def stored_scores(rows: Sequence[Row]) -> Array | None:
    """Return the scores stored with answers, (answers,); None if one has none."""
    scores = [(row.extra or {}).get(SCORE) for row in rows]
    return None if any(score is None for score in scores) else np.array(scores, np.float64)


def shift_to_share(scores: Array, count: int) -> float:
    """Return the b for which `count` scores are above 0.

    0.5, 0.2, -0.5, -0.8, -1.0 and three: the shift (0.8 + 1.0) / 2 = 0.9 makes 4 of them positive.
    """
    falling = np.sort(scores)[::-1]
    if count in (0, len(falling)):
        return math.inf if count else -math.inf
    return -float(falling[count - 1] + falling[count]) / 2


def best_shift(scores: Array, positive: npt.NDArray[np.bool_]) -> float:
    """Return the b for which most scores are above 0 where they should be; of several, the nearest to 0, then above."""
    falling = np.unique(scores)[::-1]
    shifts = [-math.inf, *-(falling[:-1] + falling[1:]) / 2, math.inf]
    return float(min(shifts, key=lambda b: (-int(((scores + b > 0) == positive).sum()), abs(b), -b)))


def shifted_counts(
    benchmark: Benchmark, items: Sequence[Item], base: Sequence[Row], method: Sequence[Row]
) -> dict[str, list[Counts]]:
    """Return the counts of both controls; none without scores of the baseline, or with one half of pictures only.

    Args:
        benchmark: The benchmark.
        items: Items of the group.
        base: The baseline's answers, in the order of the items.
        method: The method's answers.
    """
    scores, sides = stored_scores(base), halves(items)
    if scores is None or len(sides) < 2:  # also without yes/no answers: they alone have scores
        return {}
    said = np.array([parse_strict(row.text) == "yes" for row in method])
    positive = is_yes(items)
    shifted = {SHIFTED: np.zeros(len(items)), TUNED: np.zeros(len(items))}
    for fitted, tested in (sides, sides[::-1]):
        shifted[SHIFTED][tested] = shift_to_share(scores[fitted], int(said[fitted].sum()))
        shifted[TUNED][tested] = best_shift(scores[fitted], positive[fitted])
    return {
        name: benchmark.counts(items, [_answered(row, yes) for row, yes in zip(base, scores + shift > 0, strict=True)])
        for name, shift in shifted.items()
    }


def is_yes(items: Sequence[Item]) -> npt.NDArray[np.bool_]:
    """Return whether the right answer to each item is yes, (items,)."""
    return np.array([str(item.truth["label"]).lower() == "yes" for item in items])


def rankings(items: Sequence[Item], rows: dict[str, Sequence[Row]], resampler: Resampler) -> dict[str, Auroc]:
    """Return the AUROC of each strategy's scores, of those that have some.

    Args:
        items: Items of the group.
        rows: Strategy to its answers, in the order of the items.
        resampler: The bootstrap draws of the group.
    """
    scored = {name: scores for name, answers in rows.items() if (scores := stored_scores(answers)) is not None}
    if not scored:
        return {}
    positive = is_yes(items)
    if positive.all() or not positive.any():
        return {}
    separation = Separation(resampler, np.arange(len(items)), positive)
    return {name: separation.auroc(scores) for name, scores in scored.items()}


def _answered(row: Row, yes: bool) -> Row:
    return replace(row, text="Yes" if yes else "No")
