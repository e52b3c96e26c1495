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
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmhall.adapters import Adapter
from mmhall.benchmarks.base import Array, Benchmark, Counts, Item
from mmhall.benchmarks.evidence.halves import halves
from mmhall.benchmarks.rules.yesno import parse_strict
from mmhall.decoders.yes_shift import best_shift, shift_to_share
from mmhall.results.separation import Auroc, Separation
from mmhall.results.statistics import Resampler
from mmhall.results.store import Row
from mmhall.strategies import why_no_yes_no, yes_no_tokens

SCORE = "yes_score"  # in `Row.extra`
SHIFTED, TUNED = "equal yes share", "best threshold"
_LARGEST = 1e4  # JSON has no infinity


def yes_score(adapter: Adapter, scores: Tensor) -> float | None:
    """Return log P(yes) - log P(no) from the scores of a first token; None where it is not known.

    Args:
        adapter: The model.
        scores: (vocabulary,).
    """
    if why_no_yes_no(adapter) is not None:
        return None
    margin = float(yes_no_tokens(adapter).margin(scores.double()))
    return None if math.isnan(margin) else max(-_LARGEST, min(_LARGEST, margin))


def stored_scores(rows: Sequence[Row]) -> Array | None:
    """Return the scores stored with answers, (answers,); None if one has none."""
    scores = [(row.extra or {}).get(SCORE) for row in rows]
    return None if any(score is None for score in scores) else np.array(scores, np.float64)


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
    scores, sides = stored_scores(base), halves(items)
    if scores is None or len(sides) < 2 or not methods:  # also without yes/no answers: they alone have scores
        return {}

    def counted(fit: Callable[[Sequence[int]], float]) -> list[Counts]:
        shifts = np.zeros(len(items))
        for fitted, tested in (sides, sides[::-1]):
            shifts[tested] = fit(fitted)
        yes = scores + shifts > 0
        return benchmark.counts(
            items, [replace(row, text="Yes" if y else "No") for row, y in zip(base, yes, strict=True)]
        )

    def as_often(yes: npt.NDArray[np.bool_], half: Sequence[int]) -> float:
        return shift_to_share(margins[half], float(yes[half].mean()))

    margins, labels = torch.from_numpy(scores), torch.from_numpy(is_yes(items))
    tuned = counted(lambda half: best_shift(margins[half], labels[half]))
    said = {name: np.array([parse_strict(row.text) == "yes" for row in rows]) for name, rows in methods.items()}
    return {name: {SHIFTED: counted(partial(as_often, yes)), TUNED: tuned} for name, yes in said.items()}


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
