"""Is a method better than saying less, at the same recall? Captions of the baseline, made shorter, as its controls.

Arms       Everything that needs no method (`plain_arms`): cuts, filters and plain controls. Each has a recall and an
           error, such as CHAIR_i. Nothing is generated for them.
Staircase  An arm is dominated if another finds at least as much and errs at most as much, and is better in one of them.
           The others are the members of the staircase.
Frontier   F(r) is the smallest error with recall r or more of the members, and of mixtures of two of them: a random
           share of the pictures gets the caption of one member, the others that of another. Mixtures fill the steps: a
           method with the recall between two members is no better for that.
Test       The method's error minus F at its recall, cross-fitted: the pictures are halved by their names; the members
           are chosen on one half and the difference is measured on the other; then the halves are exchanged, and the
           two differences are averaged. The arm with most recall is always a member, so that F is defined wherever an
           arm reaches the recall. Bootstrap by picture within the halves, 2 000 draws, members fixed.
Beyond     Where no member reaches the method's recall, F is undefined, and in more than 5 % of the draws a remark says
           that no trivial baseline reaches this recall. The member with the largest recall then takes its place. A gain
           over it is one over F, as F rises with recall: the method finds more and errs less. Without such a gain
           nothing is shown, and there is no tick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmhall.benchmarks.base import Array, Benchmark, Counts, Item, Metric
from mmhall.benchmarks.evidence.halves import halves
from mmhall.benchmarks.evidence.lineup import Lineup
from mmhall.benchmarks.evidence.mentions import stored_certainties
from mmhall.benchmarks.evidence.plain_arms import matched_arms, mention_ends, shared_arms
from mmhall.benchmarks.evidence.ticks import Control
from mmhall.results.statistics import Resampler, bootstrap_difference
from mmhall.results.store import Row

NAME = "frontier of shorter captions"
DRAWS = 2_000
_UNDEFINED = 0.05  # share of draws above which a remark is due
Figure = Callable[..., Array]


@dataclass(frozen=True, slots=True)
class PlainArm:
    """An arm that needs no method, on all pictures.

    Attributes:
        name: The arm.
        recall: Share of what is there.
        error: Share of what is wrong.
        is_member: Whether no other arm dominates it.
    """

    name: str
    recall: float
    error: float
    is_member: bool


@dataclass(frozen=True, slots=True)
class Frontier:
    """The frontier of a group of captions.

    Attributes:
        recall: The metric that shorter captions lose.
        error: The primary metric.
        arms: The arms that all strategies are compared with.
        controls: Strategy to its difference from the frontier.
    """

    recall: Metric
    error: Metric
    arms: tuple[PlainArm, ...] = ()
    controls: Mapping[str, tuple[Control, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Point:
    """One arm on some pictures.

    Attributes:
        recall: Share of what is there, of every draw, (draws,); the first is that of the pictures as they are.
        terms: Summed counts of the error, (terms, draws), likewise.
    """

    recall: Array
    terms: Array


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


def frontier(recall: Array, members: Sequence[Point], error: Figure) -> Array:
    """Return F, the smallest error of a member, or of a mixture of two, with a recall or more; NaN where none has it.

    Args:
        recall: The recall to reach, (draws,).
        members: The members.
        error: The error as a function of its terms.
    """
    best = np.full(len(recall), np.inf)
    for upper in members:
        reaches = upper.recall >= recall
        best = np.where(reaches, np.minimum(best, error(*upper.terms)), best)
        for lower in members:
            between = reaches & (lower.recall < recall)
            if between.any():
                gap = np.where(between, upper.recall - lower.recall, 1.0)
                share = np.where(between, (recall - lower.recall) / gap, 0.0)
                mixed = error(*(lower.terms + share * (upper.terms - lower.terms)))
                best = np.where(between, np.minimum(best, mixed), best)
    return np.where(np.isfinite(best), best, np.nan)


def find_frontier(
    benchmark: Benchmark,
    items: Sequence[Item],
    rows: Mapping[str, Sequence[Row]],
    counts: Mapping[str, Sequence[Counts]],
    lineup: Lineup,
) -> Frontier | None:
    """Compare every arm but the baseline with shorter captions of the baseline; None without captions to compare.

    Args:
        benchmark: The benchmark.
        items: Items of the group.
        rows: Strategy to its answers, in the order of the items.
        counts: Strategy to the counts of its answers.
        lineup: What each strategy is compared with.
    """
    base, arms = lineup.arms[0], lineup.arms[1:]
    if not benchmark.trades or not arms:
        return None
    error, recall = benchmark.primary, next(m for m in benchmark.metrics if m.name == benchmark.trades)
    known = stored_certainties(benchmark, items, rows[base])
    sides, shared = halves(items), shared_arms(benchmark, items, rows, counts, lineup, known)
    tested = [_Half(error, recall, half, seed, items) for seed, half in enumerate(sides)]
    points = [{name: half.point(counted) for name, counted in shared.items()} for half in tested]
    ends = mention_ends(benchmark, items, rows[base])
    controls: dict[str, tuple[Control, ...]] = {}
    for arm in arms if len(sides) > 1 else ():
        matched = matched_arms(benchmark, items, rows[base], rows[arm], ends, known)
        others = [
            {name: point for name, point in own.items() if name != arm}
            | {name: half.point(counted) for name, counted in matched.items()}
            for half, own in zip(tested, points, strict=True)
        ]
        controls[arm] = (_compare([half.point(counts[arm]) for half in tested], others, error.figure),)
    return Frontier(error=error, recall=recall, arms=_plain_arms(error, recall, shared), controls=controls)


def _plain_arms(error: Metric, recall: Metric, counts: Mapping[str, Sequence[Counts]]) -> tuple[PlainArm, ...]:
    """Return the arms that have a value on all pictures."""
    found = {name: (recall.value(counted), error.value(counted)) for name, counted in counts.items()}
    known = {name: (r, e) for name, (r, e) in found.items() if r is not None and e is not None}
    members = staircase(known)
    return tuple(PlainArm(name, *point, name in members) for name, point in known.items())


def _compare(method: Sequence[Point], others: Sequence[Mapping[str, Point]], error: Figure) -> Control:
    """Average the two differences from the frontier, each with the members chosen on the other half."""
    differences, beyond, most = [], [], []
    for own, test, fit in zip(method, others, reversed(others), strict=True):
        values = {name: (float(p.recall[0]), float(error(*p.terms[:, 0]))) for name, p in fit.items()}
        chosen = staircase({name: value for name, value in values.items() if np.isfinite(value).all()})
        if not chosen:
            return Control(NAME, None)
        most_recall = max((*chosen, *test), key=lambda name: float(test[name].recall[0]))  # of equals a chosen one
        members = [test[name] for name in dict.fromkeys((*chosen, most_recall))]
        largest = np.max([member.recall for member in members], axis=0)
        differences.append(error(*own.terms) - frontier(np.minimum(own.recall, largest), members, error))
        beyond.append(own.recall > largest)
        most.append(largest[0])
    difference = np.mean(differences, axis=0)
    recall = np.mean([own.recall[0] for own in method])
    undefined = float(np.mean(np.any(beyond, axis=0)[1:])) > _UNDEFINED
    remark = f"no trivial baseline reaches this recall: {recall:.1%}, at most {np.mean(most):.1%}" if undefined else ""
    return Control(NAME, bootstrap_difference(float(difference[0]), difference[1:]), remark)


class _Half:
    """Half of the pictures, with their bootstrap draws."""

    def __init__(self, error: Metric, recall: Metric, members: Sequence[int], seed: int, items: Sequence[Item]) -> None:
        """Draw pictures of the half.

        Args:
            error: The primary metric.
            recall: The metric that shorter captions lose.
            members: 0-based items of the half.
            seed: Seed of the draws.
            items: All items.
        """
        self._error, self._recall, self._members = error, recall, members
        self._resampler = Resampler([items[index].cluster for index in members], seed, DRAWS)

    def point(self, counts: Sequence[Counts]) -> Point:
        """Return the point of an arm; `counts` are those of all items."""
        own = [counts[index] for index in self._members]
        recall, terms = (
            np.stack([np.concatenate([[term.sum()], self._resampler.sums(term)]) for term in metric.terms(own)])
            for metric in (self._recall, self._error)
        )
        return Point(self._recall.figure(*recall), terms)
