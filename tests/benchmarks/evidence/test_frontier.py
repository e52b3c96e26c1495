"""Shorter captions as controls: the staircase, its frontier, and the cross-fitted difference from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.evidence import lineup_of
from mmhall.benchmarks.evidence.frontier import Point, _compare, frontier, staircase
from mmhall.benchmarks.evidence.halves import halves
from mmhall.benchmarks.report.evidence import verdict_text
from mmhall.benchmarks.report.frontier_plot import plot_frontier
from mmhall.benchmarks.rules.length import drop_sentences
from mmhall.results.statistics import ratio
from mmhall.results.store import Row

ARMS = {"A": (50, 8), "B": (60, 9), "C": (65, 12), "D": (70, 11), "E": (80, 16)}


def constant(recall, error, draws=8):
    """An arm with 100 mentions, `error` of them wrong, in every draw."""
    return Point(np.full(draws, recall / 100), np.array([[float(error)] * draws, [100.0] * draws]))


def test_frontier_is_the_smallest_error_at_a_recall_or_more():
    """C finds less than D and errs more. F(40) = 8, F(70) = 11, F(80) = 16; no arm reaches 82.

    At 62 a fifth of the pictures with D's captions and the others with B's: 9 + (11 - 9) / 5 = 9.4, where D alone
    has 11.
    """
    members = staircase(ARMS)
    assert members == ["A", "B", "D", "E"]
    found = frontier(np.array([0.4, 0.62, 0.7, 0.8, 0.82]), [constant(*ARMS[name], draws=5) for name in members], ratio)
    np.testing.assert_allclose(found, [0.08, 0.094, 0.11, 0.16, np.nan])
    assert staircase({"A": (50, 8), "B": (50, 8), "C": (50, 9)}) == ["A", "B"]


def test_a_mixture_adds_up_mentions():
    """Half of the pictures with 10 mentions of which none is wrong, half with 30 of which 6 are: 3 of 20."""
    lower, upper = Point(np.array([0.2]), np.array([[0.0], [10]])), Point(np.array([0.4]), np.array([[6.0], [30]]))
    assert frontier(np.array([0.3]), [lower, upper], ratio).tolist() == [pytest.approx(3 / 20)]


@pytest.mark.parametrize(("error", "difference"), [(8.4, -0.01), (10.4, 0.01)])
def test_the_difference_is_taken_at_the_methods_recall(error, difference):
    """At recall 62 the frontier is at 9.4 %."""
    others = {name: constant(*point) for name, point in ARMS.items()}
    control = _compare([constant(62, error)] * 2, [others] * 2, ratio)
    assert (control.difference.value, control.remark) == (pytest.approx(difference), "")


def test_beyond_every_arm_the_largest_recall_takes_the_place():
    """Recall 82: against E (80, 16), and said so."""
    others = {name: constant(*point) for name, point in ARMS.items()}
    control = _compare([constant(82, 15)] * 2, [others] * 2, ratio)
    assert control.difference.value == pytest.approx(-0.01)
    assert control.remark == "no trivial baseline reaches this recall: 82.0%, at most 80.0%"


def test_members_are_chosen_on_one_half_and_measured_on_the_other():
    """On the second half A is dominated and B is not; on the first the reverse.

    First half, members of the second (B: recall 60, error 20): 10 - 20. Second half, members of the first (A: 60, 30):
    10 - 30. Mean -15; with members of the same half, it would be 10 - 5 twice: +5.
    """
    first = {"A": constant(60, 5), "B": constant(60, 20)}
    second = {"A": constant(60, 30), "B": constant(60, 5)}
    assert _compare([constant(60, 10)] * 2, [first, second], ratio).difference.value == pytest.approx(-0.15)


def test_the_arm_with_most_recall_is_a_member_of_either_half():
    """On the first half S dominates W, on the second it finds less: the method, which is W there, is not beyond.

    First half, where both are members: 20 - 10. Second half, where S alone was chosen: 20 - 20.
    """
    first = {"W": constant(60, 20), "S": constant(60, 10)}
    second = {"W": constant(60, 20), "S": constant(50, 10)}
    control = _compare([constant(60, 20)] * 2, [first, second], ratio)
    assert (control.difference.value, control.remark) == (pytest.approx(0.05), "")


OBJECTS = ["dog", "car", "cup"]
LONG = "A dog. A car. A cup. A cat. A bed."


def captions(count, **texts):
    items = [Item(f"{n}", f"{n}", "?", ("captions", "equal length"), {"objects": OBJECTS}) for n in range(count)]
    rows = [Row("chair", item.id, name, text, "eos", 9, 1.0, 0) for name, text in texts.items() for item in items]
    return items, rows


def test_saying_less_is_not_better_than_cutting_captions():
    """Cutting two sentences of greedy's captions leaves three objects, all right: the method's captions exactly."""
    items, rows = captions(24, greedy=LONG, short="A dog. A car. A cup.", vain="A dog. A car. A bed.")
    assert len(halves(items)) == 2
    assert drop_sentences(LONG, 2) == "A dog. A car. A cup."
    short, vain = evaluate(Chair(), items, rows, ["greedy", "short", "vain"]).evidence
    assert [one.better_than_baseline for one in (short, vain)] == ["yes", "yes"]
    assert [one.better_than_controls for one in (short, vain)] == ["no", "no"]
    assert short.controls[0].difference.value == 0
    assert vain.controls[0].difference.value == pytest.approx(1 / 3)
    assert verdict_text(vain).startswith("not above the frontier")


@pytest.mark.slow
def test_right_objects_that_no_arm_keeps_are_better_than_cutting():
    """It finds all three objects; no arm has more than two of three. What finds more and errs more gets no tick."""
    items, rows = captions(
        24, greedy="A cat. A bed. A dog. A car.", right="A dog. A car. A cup.", more="A cat. A bed. A cow. " + LONG
    )
    evaluation = evaluate(Chair(), items, rows, ["greedy", "right", "more"])
    right, more = evaluation.evidence
    (control,) = right.controls
    assert (right.better_than_controls, more.better_than_controls) == ("yes", "no")
    assert control.difference.value == pytest.approx(0 - 2 / 4)
    assert control.remark == "no trivial baseline reaches this recall: 100.0%, at most 66.7%"
    assert verdict_text(right).startswith("above the frontier: finds more than any plain caption")
    assert verdict_text(more).startswith("no trivial baseline reaches this recall")
    arms = {arm.name: arm for arm in evaluation.frontiers["captions"].arms}
    assert (arms["whole captions"].recall, arms["whole captions"].error) == (pytest.approx(2 / 3), 0.5)
    assert arms["whole captions"].is_member
    assert "first 20 words" not in arms  # which are the whole captions
    drawn = plot_frontier(evaluation, "captions", evaluation.frontiers["captions"])
    assert all(f"<!-- {name} -->" in drawn for name in ("whole captions", "without the last sentence", "right", "more"))


@pytest.mark.slow
def test_plain_searches_are_arms_of_a_greedy_baselines_frontier():
    """The beam search finds as much as the method and errs as little; without it the method would have a tick."""
    greedy = "A cat. A bed. A dog. A car. A cup."
    items, rows = captions(24, greedy=greedy, beam="A dog. A car. A cup. A man.", better="A dog. A cup. A car. A tie.")

    def ticks(base_rule, *strategies):
        rules = {"greedy": base_rule, "beam": "beam 5", "better": base_rule}
        lineup = replace(lineup_of(strategies, rules), seeds=3)  # as drawn captions need
        found = evaluate(Chair(), items, rows, strategies, lineup).evidence
        return {one.strategy: one.better_than_controls for one in found}

    assert ticks("greedy", "greedy", "better") == {"better": "yes"}
    assert ticks("greedy", "greedy", "beam", "better") == {"beam": "not run", "better": "no"}
    assert ticks("sampling", "greedy", "beam", "better")["better"] == "yes"  # drawn captions are another rule
