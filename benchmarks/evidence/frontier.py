"""Captions of the baseline, cut, as controls: is a method better than saying less, at the same recall?

Cuts       The first 20, 30, 40, 60 or 80 words; all but the last one or two sentences; as many words as the method
           wrote of that picture; the whole caption; and the plain controls of the run. Nothing is generated for them.
Frontier   A cut is dominated if another finds at least as much and errs at most as much, and is better in one of them.
           The others are the staircase. F(r) is the smallest error of those with recall r or more.
Test       The method's error minus F at its recall, cross-fitted: the pictures are halved by their names; the members
           of the staircase are chosen on one half and the difference is measured on the other; then the halves are
           exchanged, and the two differences are averaged. Bootstrap by picture within the halves, members fixed.
Beyond     Where no cut reaches the method's recall, F is undefined. The member with the largest recall takes its place,
           which favours the cut: it errs at most as much as one of a larger recall would. A remark says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mmhall.benchmarks.base import Array, Benchmark, Counts, Item, Metric
from mmhall.benchmarks.evidence.halves import halves
from mmhall.benchmarks.evidence.lineup import Lineup
from mmhall.benchmarks.evidence.ticks import Control
from mmhall.benchmarks.rules.length import count_words, cut, drop_sentences
from mmhall.benchmarks.rules.thoughts import blank_thoughts
from mmhall.results.statistics import Resampler, bootstrap_difference
from mmhall.results.store import Row

NAME = "cut captions"
WORDS = (20, 30, 40, 60, 80)
SENTENCES = (1, 2)
_UNDEFINED = 0.05  # share of draws above which a remark is due


@dataclass(frozen=True, slots=True)
class Point:
    """Recall and error of one arm on some pictures.

    Attributes:
        recall: Share of what is there.
        error: Share of what is wrong.
        drawn_recall: Recall of every bootstrap draw, (draws,).
        drawn_error: Error of every bootstrap draw, (draws,).
    """

    recall: float
    error: float
    drawn_recall: Array
    drawn_error: Array


def staircase(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the arms that no other dominates.

    Args:
        points: Recall and error by arm; without NaN.

    >>> staircase({"A": (50, 8), "B": (60, 9), "C": (65, 12), "D": (70, 11), "E": (80, 16)})
    ['A', 'B', 'D', 'E']
    """

    def dominated(own: tuple[float, float]) -> bool:
        return any(r >= own[0] and e <= own[1] and (r, e) != own for r, e in points.values())

    return [arm for arm, point in points.items() if not dominated(point)]


def frontier(recall: Array, recalls: Array, errors: Array) -> Array:
    """Return F: the smallest error of an arm with a recall or more; NaN where none reaches it.

    Args:
        recall: The recall to reach, (draws,).
        recalls: Recall of each arm, (arms, draws).
        errors: Error of each arm, (arms, draws).
    """
    best = np.where(recalls >= recall, errors, np.inf).min(axis=0)
    return np.where(np.isfinite(best), best, np.nan)


def cut_controls(
    benchmark: Benchmark,
    items: Sequence[Item],
    rows: Mapping[str, Sequence[Row]],
    counts: Mapping[str, Sequence[Counts]],
    lineup: Lineup,
) -> dict[str, tuple[Control, ...]]:
    """Compare every arm but the baseline with the cut captions of the baseline; none without captions.

    Args:
        benchmark: The benchmark.
        items: Items of the group.
        rows: Strategy to its answers, in the order of the items.
        counts: Strategy to the counts of its answers.
        lineup: What each strategy is compared with.
    """
    base, arms = lineup.arms[0], lineup.arms[1:]
    sides = halves(items)
    if not benchmark.trades or len(sides) < 2 or not arms:
        return {}
    shared = {
        **{name: _recount(benchmark, items, rows[base], shorten) for name, shorten in _cuts().items()},
        **{name: counts[name] for name in lineup.controls if lineup.rule(name) == lineup.rule(base)},
        "whole": counts[base],
    }
    metric, traded = benchmark.primary, next(m for m in benchmark.metrics if m.name == benchmark.trades)
    draws = [Resampler([items[i].cluster for i in half], seed) for seed, half in enumerate(sides)]
    tested = [_Half(metric, traded, half, drawn) for half, drawn in zip(sides, draws, strict=True)]
    points = [{name: half.point(counted) for name, counted in shared.items()} for half in tested]
    controls: dict[str, tuple[Control, ...]] = {}
    for arm in arms:
        lengths = [count_words(blank_thoughts(row.text)) for row in rows[arm]]
        own = benchmark.counts(
            items, [_shortened(row, partial(cut, words=n)) for row, n in zip(rows[base], lengths, strict=True)]
        )
        others = [
            {**{name: p for name, p in known.items() if name != arm}, "same length": half.point(own)}
            for half, known in zip(tested, points, strict=True)
        ]
        controls[arm] = (_compare([half.point(counts[arm]) for half in tested], others),)
    return controls


def _compare(method: Sequence[Point], others: Sequence[Mapping[str, Point]]) -> Control:
    """Average the two differences from the frontier, each with the members chosen on the other half."""
    values, draws, beyond, most = [], [], [], []
    for own, test, fit in zip(method, others, reversed(others), strict=True):
        usable = {n: (p.recall, p.error) for n, p in fit.items() if np.isfinite((p.recall, p.error)).all()}
        members = [test[name] for name in staircase(usable)]
        if not members:
            return Control(NAME, None)
        recalls, errors = (np.stack([getattr(p, key) for p in members]) for key in ("drawn_recall", "drawn_error"))
        reached = np.minimum(own.drawn_recall, recalls.max(axis=0))
        draws.append(own.drawn_error - frontier(reached, recalls, errors))
        beyond.append(own.drawn_recall > recalls.max(axis=0))
        most.append(max(p.recall for p in members))
        at = np.array([min(own.recall, most[-1])])
        values.append(
            own.error - frontier(at, *(np.array([[getattr(p, k)] for p in members]) for k in ("recall", "error")))[0]
        )
    share = float(np.mean(beyond[0] | beyond[1]))
    recall = np.mean([point.recall for point in method])
    remark = f"recall {recall:.1%}; no cut has more than {np.mean(most):.1%}"
    remark = remark if share > _UNDEFINED else ""
    return Control(NAME, bootstrap_difference(float(np.mean(values)), np.mean(draws, axis=0)), remark)


@dataclass(frozen=True, slots=True)
class _Half:
    """Half of the pictures: both metrics, 0-based items, and bootstrap draws."""

    metric: Metric
    traded: Metric
    items: Sequence[int]
    resampler: Resampler

    def point(self, counts: Sequence[Counts]) -> Point:
        own = [counts[index] for index in self.items]
        values, drawn = [], []
        for metric in (self.traded, self.metric):
            terms = metric.terms(own)
            values.append(float(metric.figure(*(term.sum() for term in terms))))
            drawn.append(metric.figure(*map(self.resampler.sums, terms)))
        return Point(values[0], values[1], drawn[0], drawn[1])


def _cuts() -> dict[str, Callable[[str], str]]:
    cuts: dict[str, Callable[[str], str]] = {f"first {n} words": partial(cut, words=n) for n in WORDS}
    return cuts | {f"without the last {n} sentences": partial(drop_sentences, count=n) for n in SENTENCES}


def _recount(
    benchmark: Benchmark, items: Sequence[Item], rows: Sequence[Row], shorten: Callable[[str], str]
) -> list[Counts]:
    return benchmark.counts(items, [_shortened(row, shorten) for row in rows])


def _shortened(row: Row, shorten: Callable[[str], str]) -> Row:
    return replace(row, text=shorten(blank_thoughts(row.text)))
