"""Shifts of the threshold between yes and no, fitted to margins: log P(yes) - log P(no) of each question, in nats.

With a shift b, yes is said where m + b > 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_EDGE = 1.0  # nats beyond the outermost margin, where all answers are to be the same


def shift_to_share(margins: Array, share: float) -> float:
    """Return the shift with which a share of margins exceeds 0.

    Of margins 0.5, 0.2, -0.5, -0.8, -1, -1.5, -2, -3 half exceed 0 with 0.9.

    Args:
        margins: (questions,), at least one.
        share: Share of yes in [0, 1]; where it falls between equal margins, fewer exceed 0.
    """
    return float(_shifts(margins)[round(share * len(margins))])


def best_shift(margins: Array, labels: Flags) -> float:
    """Return the shift with the highest accuracy; of several the smallest, then the positive one.

    Args:
        margins: (questions,), at least one.
        labels: Whether yes is the right answer, (questions,).
    """
    shifts = np.concatenate([[0.0], _shifts(margins)])
    yes, no = np.sort(margins[labels]), np.sort(margins[~labels])
    right = len(yes) - np.searchsorted(yes, -shifts, "right") + np.searchsorted(no, -shifts, "right")
    return float(shifts[np.lexsort((-shifts, abs(shifts), -right))[0]])


def _shifts(margins: Array) -> Array:
    """Return the shifts with which none, one, ... all margins exceed 0, (questions + 1,)."""
    ordered = np.sort(margins)[::-1]
    high = np.concatenate([ordered[:1] + 2 * _EDGE, ordered])
    low = np.concatenate([ordered, ordered[-1:] - 2 * _EDGE])
    return np.asarray(-(high + low) / 2)
