"""Intervals and paired tests for ratios of counts, clustered by picture.

Items of one picture are not independent, so pictures are resampled, never items. Two strategies are
compared on the same draws. Everything is seeded: the same answers give the same digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

DRAWS = 10_000
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio with its 95 % interval; value, low and high are None when nothing could be divided.

    Attributes:
        value: The ratio.
        low: Lower end.
        high: Upper end.
        over: Its numerator.
        under: Its denominator.
    """

    value: float | None
    low: float | None
    high: float | None
    over: float
    under: float


@dataclass(frozen=True, slots=True)
class Difference:
    """How a strategy's ratio differs from the baseline's.

    Attributes:
        value: Strategy minus baseline.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided p-value.
        test: "exact McNemar" or "paired permutation".
    """

    value: float
    low: float
    high: float
    p: float
    test: str


class Resampler:
    """Draws pictures with replacement, the same draws for every ratio and strategy.

    Attributes:
        one_each: Whether every picture has one item.
    """

    def __init__(self, clusters: Sequence[str], seed: int = 0, draws: int = DRAWS) -> None:
        """Prepare the draws.

        Args:
            clusters: The picture each item belongs to.
            seed: Seeds the draws.
            draws: How many.
        """
        self.one_each = len(set(clusters)) == len(clusters)
        names, self._of = np.unique(np.asarray(clusters), return_inverse=True)
        count = len(names)
        rng = np.random.default_rng(seed)
        self._weights = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
        self._swaps = rng.integers(0, 2, (draws, count)).astype(np.float64)

    def estimate(self, over: Array, under: Array) -> Estimate:
        """Estimate sum(over) / sum(under) over items."""
        top, bottom = float(over.sum()), float(under.sum())
        if bottom == 0:
            return Estimate(None, None, None, top, bottom)
        low, high = np.nanpercentile(self._ratios(over, under), [2.5, 97.5])
        return Estimate(top / bottom, float(low), float(high), top, bottom)

    def difference(self, over: Array, under: Array, base_over: Array, base_under: Array) -> Difference | None:
        """Compare two ratios on the same items; None when one cannot be divided.

        The interval is a paired bootstrap. The p-value is a permutation test: if strategy and baseline
        were alike, exchanging their counts within a picture would change nothing.
        """
        if under.sum() == 0 or base_under.sum() == 0:
            return None
        drawn = self._ratios(over, under) - self._ratios(base_over, base_under)
        low, high = np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5])
        value = over.sum() / under.sum() - base_over.sum() / base_under.sum()
        exchanged = self._exchanged(over, base_over, under, base_under)
        exchanged = np.abs(exchanged[np.isfinite(exchanged)])
        as_extreme = int((exchanged >= abs(value) - 1e-12).sum())
        p = (as_extreme + 1) / (len(exchanged) + 1)
        return Difference(float(value), float(low), float(high), p, "paired permutation")

    def _exchanged(self, over: Array, base_over: Array, under: Array, base_under: Array) -> Array:
        """Return the difference of ratios after exchanging strategy and baseline in random pictures, (draws,)."""
        size = self._weights.shape[1]
        tops, base_tops, bottoms, base_bottoms = (
            np.bincount(self._of, values, size) for values in (over, base_over, under, base_under)
        )
        swapped_tops, swapped_bottoms = self._swaps @ (base_tops - tops), self._swaps @ (base_bottoms - bottoms)
        with np.errstate(invalid="ignore", divide="ignore"):
            ours = (tops.sum() + swapped_tops) / (bottoms.sum() + swapped_bottoms)
            theirs: Array = (base_tops.sum() - swapped_tops) / (base_bottoms.sum() - swapped_bottoms)
        difference: Array = ours - theirs
        return difference

    @property
    def pictures(self) -> int:
        """How many pictures there are."""
        count: int = self._weights.shape[1]
        return count

    @property
    def picture_of(self) -> npt.NDArray[np.intp]:
        """The 0-based picture each item belongs to, (items,)."""
        return self._of

    def pair_sums(self, values: Array) -> Array:
        """Return the sum of values of pairs of pictures, (pictures, pictures), over all pairs drawn, (draws,)."""
        rows = values.any(axis=1)
        drawn: Array = np.einsum("dp,dp->d", self._weights[:, rows] @ values[rows], self._weights)
        return drawn

    def sums(self, values: Array) -> Array:
        """Return the sum of values over the items of the pictures drawn, for every draw, (draws,)."""
        drawn: Array = self._weights @ np.bincount(self._of, values, self._weights.shape[1])
        return drawn

    def _ratios(self, over: Array, under: Array) -> Array:
        tops, bottoms = self.sums(over), self.sums(under)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios: Array = tops / bottoms
        return ratios


def mcnemar(base: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Return the exact two-sided McNemar p-value of two paired series of outcomes.

    57 pairs lost and 58 won give 1.0; 75 and 55 give 0.09525; 38 and 59 give 0.04173.
    """
    lost, won = int((base & ~other).sum()), int((~base & other).sum())
    return float(binomtest(min(lost, won), lost + won, 0.5).pvalue) if lost + won else 1.0
