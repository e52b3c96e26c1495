"""Signal detection from yes/no counts: d', c, and what a threshold can give.

d' and c add 0.5 to the counts and 1 to the totals, so that shares of 0 and 1 have a finite score.

They are read off a single threshold. If the scores of yes questions and of no questions are normal with one variance,
another threshold changes c and leaves d' as it is; scores of models are not, so that a change of d' does not tell
better ranking from another threshold. AUROC of the scores does (`mmhall.benchmarks.evidence.threshold`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from mmhall.benchmarks.base import Metric

Array = npt.NDArray[np.float64]
COUNTS = ("tp", "is_yes", "said_yes", "is_no")


def d_prime(tp: Array, is_yes: Array, said_yes: Array, is_no: Array) -> Array:
    """Return d' = z(share of yes found) - z(share of no answered yes); NaN without both labels.

    9 of 10 found, 2 of 10 false: z(9.5 / 11) - z(2.5 / 11) = 1.0968 + 0.7479.

    >>> round(float(d_prime(9, 10, 11, 10)), 4)
    1.8447
    """
    hits, false = _scores(tp, is_yes, said_yes, is_no)
    return np.asarray(hits - false)


def criterion(tp: Array, is_yes: Array, said_yes: Array, is_no: Array) -> Array:
    """Return c = -(z(share of yes found) + z(share of no answered yes)) / 2; below 0 leans to yes.

    >>> round(float(criterion(9, 10, 11, 10)), 4)
    -0.1745
    """
    hits, false = _scores(tp, is_yes, said_yes, is_no)
    return np.asarray(-(hits + false) / 2)


def best_balanced_accuracy(tp: Array, is_yes: Array, said_yes: Array, is_no: Array) -> Array:
    """Return Phi(d' / 2): the best mean of both classes' accuracies that a threshold can give.

    It holds for normal scores with one variance; the threshold that gives it lies halfway between the two means.

    >>> round(float(best_balanced_accuracy(9, 10, 11, 10)), 4)
    0.8218
    """
    return np.asarray(ndtr(d_prime(tp, is_yes, said_yes, is_no) / 2))


def _scores(tp: Array, is_yes: Array, said_yes: Array, is_no: Array) -> tuple[Array, Array]:
    tp, is_yes, said_yes, is_no = (np.asarray(count, np.float64) for count in (tp, is_yes, said_yes, is_no))
    both = np.where((is_yes > 0) & (is_no > 0), 1.0, np.nan)
    return both * ndtri((tp + 0.5) / (is_yes + 1)), ndtri((said_yes - tp + 0.5) / (is_no + 1))


METRICS = (
    Metric("false yes", {"said_yes": 1, "tp": -1}, {"is_no": 1}, "lower", table="yes bias"),
    Metric("d'", {}, {}, "higher", percent=False, table="yes bias", of=d_prime, sums=COUNTS),
    Metric("c", {}, {}, percent=False, table="yes bias", of=criterion, sums=COUNTS),
)
