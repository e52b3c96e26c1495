"""AUROC with confidence intervals: how well a value separates two classes; pictures are the clusters.

AUROC is the share of pairs, one sample of each class, in which the positive sample has the larger value; a tie is half
a pair. Its numerator is the Mann-Whitney U, its denominator the number of pairs. The samples of a pair may be of two
pictures, so a bootstrap draw weighs each pair by how often both of its pictures were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmhall.results.intervals import percentile_interval
from mmhall.results.statistics import Array, Difference, Estimate, Resampler, bootstrap_difference

Flags = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.intp]
_AT_ONCE = 256  # pictures whose pairs are counted at a time


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
        equal = np.zeros(len(items))  # of equal values each pair is half won
        self._pairs = resampler.pair_sums(self._between(equal)) * 2

    def auroc(self, values: Array) -> Auroc:
        """Compute the AUROC of some values, (samples,)."""
        won = self._resampler.pair_sums(self._between(values))
        with np.errstate(invalid="ignore"):
            drawn = won / self._pairs
        return Auroc(*pairs_won(values, self._positive, self._strata), drawn, self._resampler.pictures)

    def _between(self, values: Array) -> Iterator[tuple[Labels, Array]]:
        """Yield picture numbers, (n,), and the pairs won by their positives against each picture, (n, pictures)."""
        other = ~self._positive
        other_values, where = values[other][None], self._pictures[other]
        firsts = np.unique(self._pictures[self._positive])
        for start in range(0, len(firsts), _AT_ONCE):
            block = firsts[start : start + _AT_ONCE]
            won = np.zeros((len(block), self._resampler.pictures))
            for row, picture in enumerate(block):
                in_picture = self._positive & (self._pictures == picture)
                positive_values = values[in_picture][:, None]
                met = self._strata[in_picture][:, None] == self._strata[other][None]
                credit = met * ((positive_values > other_values) + 0.5 * (positive_values == other_values))
                won[row] = np.bincount(where, credit.sum(axis=0), self._resampler.pictures)
            yield block, won


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
