"""Intervals that hold for few pictures and for shares near 0 and 1, and what follows from them.

Shares      Score interval of Wilson (1927) with the effective number of answers of Korn and Graubard (1998): the number
            of independent answers whose share would vary as much as this one does between pictures. Where all or none
            are right nothing varies, and each picture counts as one answer. Quantiles are Student's t.
Others      Percentiles of the bootstrap, expanded as by Hesterberg (2015): percentile intervals are too narrow for few
            pictures, by the factor that t quantiles and n / (n - 1) make up for.
Unseen      A difference is at least as uncertain as the share of pictures that it rests on: of 200 pictures of which
            none differs, up to 1.9 % could.
Equivalence Two one-sided tests at 5 % (Schuirmann, 1987): an effect is smaller than a margin if the 90 % interval lies
            within it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit  # scipy.stats takes two seconds to import

Array = npt.NDArray[np.float64]
LEVEL = 0.95
FEW = 60  # pictures; below, a report says so
_TESTABLE = 6  # pictures: of five, the smallest p-value of a permutation is 2 in 32


def are_shares(over: Array, under: Array) -> bool:
    """Tell whether sums by picture, (pictures,), are whole numbers of which one counts part of the other: a share."""
    whole = (over == np.rint(over)).all() and (under == np.rint(under)).all()
    return bool(whole and (over >= 0).all() and (over <= under).all())


def share_interval(over: Array, under: Array, level: float = LEVEL) -> tuple[float, float]:
    """Return the score interval of sum(over) / sum(under), a share in [0, 1].

    Args:
        over: Numerator of each picture, (pictures,), from 0 to `under`.
        under: Denominator of each picture; not all 0.
        level: Share of such intervals that hold the true share.

    >>> low, high = share_interval(np.zeros(60), np.ones(60))
    >>> round(low, 3), round(high, 3)
    (0.0, 0.063)
    """
    counted = under > 0
    over, under = over[counted], under[counted]
    pictures, share = len(over), float(over.sum() / under.sum())
    if pictures == 1:
        return 0.0, 1.0
    answers = float(pictures)
    if 0 < share < 1:
        spread = float(((over - share * under) ** 2).sum()) * pictures / (pictures - 1)
        if spread == 0:
            return share, share
        answers = share * (1 - share) * float(under.sum()) ** 2 / spread
    return _wilson(share, answers, float(stdtrit(pictures - 1, (1 + level) / 2)))


def _wilson(share: float, answers: float, quantile: float) -> tuple[float, float]:
    extra = quantile**2 / answers
    middle = (share + extra / 2) / (1 + extra)
    half = quantile * math.sqrt(share * (1 - share) / answers + extra / (4 * answers)) / (1 + extra)
    return max(0.0, middle - half), min(1.0, middle + half)


def percentile_interval(drawn: Array, pictures: int | None, level: float = LEVEL) -> tuple[float, float]:
    """Return the expanded percentile interval of bootstrap draws, (draws,); those without a value do not count.

    Args:
        drawn: The figure of each draw.
        pictures: Number of pictures that were drawn from; None: many, and nothing is expanded.
        level: Share of such intervals that hold the true figure.

    >>> [round(end, 1) for end in percentile_interval(np.arange(1001.0), None)]
    [25.0, 975.0]
    >>> low, _ = percentile_interval(np.arange(1001.0), 20)  # Phi(-sqrt(20 / 19) x 2.093) = 0.0159
    >>> round(low, 1)
    15.9
    """
    tail = (1 - level) / 2
    if pictures is not None:
        quantile = stdtrit(pictures - 1, 1 - tail) if pictures > 1 else math.inf
        tail = float(ndtr(-math.sqrt(pictures / max(1, pictures - 1)) * quantile))
    low, high = np.percentile(drawn[np.isfinite(drawn)], [100 * tail, 100 * (1 - tail)])
    return float(low), float(high)


def unseen(moved: int, pictures: int, level: float = LEVEL) -> float:
    """Return the share of pictures that could differ beside those which do, by the upper end of a score interval.

    >>> round(unseen(0, 200), 3)
    0.019
    """
    upper = share_interval(np.repeat([1.0, 0.0], [moved, pictures - moved]), np.ones(pictures), level)[1]
    return upper - moved / pictures


def detectable(low: float, high: float, pictures: int) -> float | None:
    """Return the smallest difference that is found with 80 % power at 5 %, from the 95 % interval of one like it.

    It is the half width times 1 + t(0.8) / t(0.975): 1.43 for many pictures. None: five pictures show nothing.

    >>> round(detectable(-0.0196, 0.0196, 1000), 4)
    0.028
    """
    if pictures < _TESTABLE:
        return None
    return (high - low) / 2 * float(1 + stdtrit(pictures - 1, 0.8) / stdtrit(pictures - 1, 0.975))
