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
        test: "exact McNemar" or "paired bootstrap".
    """

    value: float
    low: float
    high: float
    p: float
    test: str


class Resampler:
    """Draws pictures with replacement, the same draws for every ratio and strategy."""

    def __init__(self, clusters: Sequence[str], seed: int = 0, draws: int = DRAWS) -> None:
        """Prepare the draws.

        Args:
            clusters: The picture each item belongs to.
            seed: Seeds the draws.
            draws: How many.
        """
        names, self._of = np.unique(np.asarray(clusters), return_inverse=True)
        count = len(names)
        rng = np.random.default_rng(seed)
        self._weights = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)

    def estimate(self, over: Array, under: Array) -> Estimate:
        """Estimate sum(over) / sum(under) over items."""
        top, bottom = float(over.sum()), float(under.sum())
        if bottom == 0:
            return Estimate(None, None, None, top, bottom)
        low, high = np.nanpercentile(self._ratios(over, under), [2.5, 97.5])
        return Estimate(top / bottom, float(low), float(high), top, bottom)

    def difference(self, over: Array, under: Array, base_over: Array, base_under: Array) -> Difference | None:
        """Compare two ratios on the same items by paired bootstrap; None when one cannot be divided."""
        if under.sum() == 0 or base_under.sum() == 0:
            return None
        drawn = self._ratios(over, under) - self._ratios(base_over, base_under)
        drawn = drawn[np.isfinite(drawn)]
        low, high = np.percentile(drawn, [2.5, 97.5])
        tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
        value = over.sum() / under.sum() - base_over.sum() / base_under.sum()
        return Difference(
            float(value), float(low), float(high), min(1.0, 2 * (int(tail) + 1) / (len(drawn) + 1)), "paired bootstrap"
        )

    def _ratios(self, over: Array, under: Array) -> Array:
        size = self._weights.shape[1]
        tops = self._weights @ np.bincount(self._of, over, size)
        bottoms = self._weights @ np.bincount(self._of, under, size)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios: Array = tops / bottoms
        return ratios


def mcnemar(base: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Return the exact two-sided McNemar p-value of two paired series of outcomes.

    57 pairs lost and 58 won give 1.0; 75 and 55 give 0.09525; 38 and 59 give 0.04173.
    """
    lost, won = int((base & ~other).sum()), int((~base & other).sum())
    return float(binomtest(min(lost, won), lost + won, 0.5).pvalue) if lost + won else 1.0
