"""Outcomes of yes/no answers, and how a strategy's answers turn from the baseline's.

Outcome     A yes question is a true positive (TP) or a false negative (FN), a no question a false positive (FP) or a
            true negative (TN). An answer that the rule cannot read is "unreadable", a class of its own.
Turns       Pairs of answers to one question, the baseline's and the strategy's, by their outcomes.
Test        Exact McNemar over questions, right or wrong; an unreadable answer is wrong. It takes questions about one
            picture as independent; the test of the table goes by picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmhall.benchmarks.base import Counts, Item
from mmhall.results.statistics import mcnemar

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the answers to some yes/no questions are, as flags of each question, (questions,).

    Attributes:
        counted: Whether the answer counts in this group.
        is_yes: Whether yes is right.
        right: Whether the answer is right.
        unreadable: Whether the rule cannot read the answer.
    """

    counted: Flags
    is_yes: Flags
    right: Flags
    unreadable: Flags

    @property
    def says_yes(self) -> Flags:
        """Whether the answer is yes."""
        said: Flags = self.counted & ~self.unreadable & (self.right == self.is_yes)
        return said


@dataclass(frozen=True, slots=True)
class Turns:
    """Numbers of questions by the baseline's and the strategy's outcome.

    Attributes:
        fn_to_tp: Yes questions that became right.
        fp_to_tn: No questions that became right.
        tp_to_fn: Yes questions that became wrong.
        tn_to_fp: No questions that became wrong.
        both_right: Right in both.
        both_wrong: Wrong, though readable, in both.
        became_unreadable: Right before, unreadable now.
        became_right: Unreadable before, right now.
        not_right: Unreadable before or now, and never right.
        p: Exact McNemar p-value.
    """

    fn_to_tp: int
    fp_to_tn: int
    tp_to_fn: int
    tn_to_fp: int
    both_right: int
    both_wrong: int
    became_unreadable: int
    became_right: int
    not_right: int
    p: float

    @property
    def gained(self) -> int:
        """Number of answers that became right."""
        return self.fn_to_tp + self.fp_to_tn + self.became_right

    @property
    def lost(self) -> int:
        """Number of right answers that became wrong or unreadable."""
        return self.tp_to_fn + self.tn_to_fp + self.became_unreadable

    @property
    def unreadable(self) -> int:
        """Number of questions with an unreadable answer, before or now."""
        return self.became_unreadable + self.became_right + self.not_right


def outcomes_of(items: Sequence[Item], counts: Sequence[Counts]) -> Outcomes:
    """Return the outcomes of answers from their counts.

    Args:
        items: Items of a benchmark of yes/no questions.
        counts: Counts of their answers: "n", "right" and "unparsed".
    """
    counted, right, unparsed = (np.array([c[name] > 0 for c in counts], bool) for name in ("n", "right", "unparsed"))
    is_yes = np.array([str(item.truth["label"]).lower() == "yes" for item in items], bool)
    return Outcomes(counted, is_yes, right, unparsed & ~right)


def turns_between(base: Outcomes, own: Outcomes) -> Turns:
    """Count how the answers to the same questions turned; questions that do not count in both are left out."""
    both = base.counted & own.counted
    is_yes, before, after = base.is_yes, base.right, own.right
    read = ~base.unreadable & ~own.unreadable

    def count(chosen: Flags) -> int:
        return int((both & chosen).sum())

    return Turns(
        fn_to_tp=count(read & is_yes & ~before & after),
        fp_to_tn=count(read & ~is_yes & ~before & after),
        tp_to_fn=count(read & is_yes & before & ~after),
        tn_to_fp=count(read & ~is_yes & before & ~after),
        both_right=count(before & after),
        both_wrong=count(read & ~before & ~after),
        became_unreadable=count(before & own.unreadable),
        became_right=count(base.unreadable & after),
        not_right=count(~read & ~before & ~after),
        p=mcnemar(before[both], after[both]),
    )
