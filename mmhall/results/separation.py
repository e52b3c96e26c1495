"""AUROC with confidence intervals: how well a value separates two classes; pictures are the clusters.

AUROC is the share of pairs, one sample of each class, in which the positive sample has the larger value; a tie is half
a pair. Its numerator is the Mann-Whitney U, its denominator the number of pairs. The samples of a pair may be of two
pictures, so a bootstrap draw weighs each pair by how often both of its pictures were drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmhall.results.intervals import percentile_interval
from mmhall.results.statistics import Array, Difference, Estimate, Resampler, bootstrap_difference

Flags = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Auroc:
    """The AUROC of some values, as counts of pairs.

    Attributes:
        won: Pairs in which the positive sample has the larger value; a tie is half a pair.
        pairs: Number of pairs.
        drawn: AUROC of every bootstrap draw of pictures, (draws,); NaN where a draw holds no pair.
        pictures: Number of pictures that were drawn from.
    """

    won: float
    pairs: int
    drawn: Array
    pictures: int

    def estimate(self) -> Estimate:
        """Return the AUROC with its interval; its value is None without any pair."""
        return _estimate(self.won, self.pairs, self.drawn, self.pictures)

    def minus(self, base: Auroc) -> Estimate:
        """Return the difference from the AUROC of other values of the same samples, on the same draws."""
        return _estimate(self.won - base.won, self.pairs, self.drawn - base.drawn, self.pictures)

    def compared_with(self, base: Auroc) -> Difference | None:
        """Return the difference from the AUROC of other values, with its p-value (paired bootstrap); None: no value."""
        value = (self.won - base.won) / self.pairs if self.pairs else np.nan
        return bootstrap_difference(value, self.drawn - base.drawn)


class Separation:
    """Samples of two classes in the pictures of a resampler."""

    def __init__(self, resampler: Resampler, items: Labels, positive: Flags, strata: Labels | None = None) -> None:
        """Describe the samples.

        Args:
            resampler: Draws the pictures of the items.
            items: 0-based item of each sample, (samples,).
            positive: Whether each sample is of the positive class, (samples,).
            strata: Stratum of each sample, (samples,): only samples of one stratum make a pair; None: all do.
        """
        self._resampler, self._positive = resampler, positive
        self._pictures = resampler.picture_of[items]
        self._strata = np.zeros(len(items), np.intp) if strata is None else strata
        self._pairs = self._won(np.zeros(len(items))) * 2  # of equal values each pair is half won

    def auroc(self, values: Array) -> Auroc:
        """Compute the AUROC of some values, (samples,)."""
        with np.errstate(invalid="ignore"):
            drawn = self._won(values) / self._pairs
        return Auroc(*pairs_won(values, self._positive, self._strata), drawn, self._resampler.pictures)

    def _won(self, values: Array) -> Array:
        """Return the pairs won by the positives in every draw, (draws,).

        The negatives are sorted by stratum and value. Running sums of their weights then say, for each positive, how
        many it beats, and how many it does not lose against.
        """
        other, positive = np.flatnonzero(~self._positive), np.flatnonzero(self._positive)
        other = other[np.lexsort((values[other], self._strata[other]))]
        first, beaten, not_lost = np.zeros((3, len(positive)), np.intp)
        for stratum in np.unique(self._strata[positive]):
            start, end = np.searchsorted(self._strata[other], [stratum, stratum + 1])
            inside = self._strata[positive] == stratum
            first[inside] = start
            for found, side in ((beaten, "left"), (not_lost, "right")):
                own = values[positive[inside]]
                found[inside] = start + np.searchsorted(values[other[start:end]], own, side)  # type: ignore[call-overload]
        won = np.empty(self._resampler.draws)
        for part, weights in self._resampler.drawn(len(values)):
            sums = np.zeros((len(weights), len(other) + 1))
            np.cumsum(weights[:, self._pictures[other]], axis=1, out=sums[:, 1:])
            credit = (sums[:, beaten] + sums[:, not_lost]) / 2 - sums[:, first]
            won[part] = np.einsum("dp,dp->d", credit, weights[:, self._pictures[positive]])
        return won


def pairs_won(values: Array, positive: Flags, strata: Labels) -> tuple[float, int]:
    """Return the Mann-Whitney U of the positive samples and the number of pairs, summed over strata.

    Positives 3 and 1, negatives 2 and 1: 3 beats both, 1 loses to 2 and ties with 1: 2.5 of 4.
    """
    won, pairs = 0.0, 0
    for stratum in np.unique(strata):
        inside = strata == stratum
        positives, others = values[inside & positive], values[inside & ~positive]
        if len(positives) and len(others):
            others = np.sort(others)
            beaten, not_lost = (np.searchsorted(others, positives, side) for side in ("left", "right"))
            won += float((beaten + not_lost).sum()) / 2
            pairs += len(positives) * len(others)
    return won, pairs


def quantile_strata(values: Array, count: int) -> Labels:
    """Return the stratum of each value, (samples,): at most `count` quantiles; equal values share a stratum."""
    edges = np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]) if len(values) else np.empty(0)
    return np.searchsorted(edges, values, side="right")


def _estimate(won: float, pairs: int, drawn: Array, pictures: int) -> Estimate:
    if not pairs:
        return Estimate(None, None, None, 0.0, 0.0)
    return Estimate(won / pairs, *percentile_interval(drawn, pictures), won, float(pairs))
