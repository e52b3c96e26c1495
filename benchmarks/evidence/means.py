"""The mean of a figure over groups, such as POPE's settings, with an interval of its own.

Every group counts once, whatever its size. Pictures are resampled with all their items in all groups, so that an item
of several groups is not taken for several independent ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmhall.benchmarks.base import Array, Benchmark, Counts, Item, Metric, share_equal
from mmhall.results.statistics import Difference, Estimate, Figure, Resampler
from mmhall.results.store import Row


class GroupMeans:
    """The means of the figures of several groups."""

    def __init__(self, benchmark: Benchmark, groups: Mapping[str, Sequence[Item]]) -> None:
        """Prepare the bootstrap draws.

        Args:
            benchmark: The benchmark.
            groups: Group to its items; an item that counts twice stands there twice.
        """
        self._benchmark, self._groups = benchmark, tuple(groups.values())
        self._resampler = Resampler([item.cluster for items in self._groups for item in items])

    def counts(self, answers: Mapping[str, Row]) -> list[Sequence[Counts]]:
        """Return the counts of one strategy's answers in each group, from its answers by item id."""
        return [
            share_equal(self._benchmark.counts(items, [answers[item.id] for item in items])) for items in self._groups
        ]

    def estimate(self, metric: Metric, counts: Sequence[Sequence[Counts]]) -> Estimate:
        """Estimate the mean of a metric over the groups."""
        return self._resampler.estimate_of(_mean_of(metric, len(self._groups)), self._terms(metric, counts))

    def difference(
        self, metric: Metric, counts: Sequence[Sequence[Counts]], base: Sequence[Sequence[Counts]]
    ) -> Difference | None:
        """Compare the mean of a metric with the baseline's on the same items."""
        terms = self._terms(metric, counts), self._terms(metric, base)
        return self._resampler.difference_of(_mean_of(metric, len(self._groups)), *terms)

    def _terms(self, metric: Metric, counts: Sequence[Sequence[Counts]]) -> list[Array]:
        """Return the terms of each group over the items of all groups, 0 outside the group; each (items,)."""
        total, start, terms = sum(map(len, counts)), 0, []
        for own in counts:
            for term in metric.terms(own):
                padded = np.zeros(total)
                padded[start : start + len(own)] = term
                terms.append(padded)
            start += len(own)
        return terms


def _mean_of(metric: Metric, groups: int) -> Figure:
    """Return the mean of a metric over groups, as a function of its groups' sums, one group after the other."""

    def mean(*sums: Array) -> Array:
        each = len(sums) // groups
        figures = [metric.figure(*sums[at : at + each]) for at in range(0, len(sums), each)]
        average: Array = np.mean(figures, axis=0)
        return average

    return mean
