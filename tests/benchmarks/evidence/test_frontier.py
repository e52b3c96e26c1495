"""Cut captions as controls: the staircase, its frontier, and the cross-fitted difference from it."""

from __future__ import annotations

import numpy as np
import pytest

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.evidence.frontier import Point, _compare, frontier, staircase
from mmhall.benchmarks.evidence.halves import halves
from mmhall.benchmarks.rules.length import drop_sentences
from mmhall.results.store import Row

ARMS = {"A": (50, 8), "B": (60, 9), "C": (65, 12), "D": (70, 11), "E": (80, 16)}


def constant(recall, error, draws=8):
    return Point(recall, error, np.full(draws, float(recall)), np.full(draws, float(error)))


def test_frontier_is_the_smallest_error_at_a_recall_or_more():
    """C finds less than D and errs more. F(40) = 8, F(62) = 11, F(80) = 16; no arm reaches 82."""
    members = staircase(ARMS)
    assert members == ["A", "B", "D", "E"]
    recalls, errors = (np.array([[ARMS[name][k]] * 4 for name in members], float) for k in (0, 1))
    found = frontier(np.array([40.0, 62, 80, 82]), recalls, errors)
    np.testing.assert_array_equal(found, [8, 11, 16, np.nan])
    assert staircase({"A": (50, 8), "B": (50, 8), "C": (50, 9)}) == ["A", "B"]


@pytest.mark.parametrize(("error", "difference"), [(10, -1.0), (12, 1.0)])
def test_the_difference_is_taken_at_the_methods_recall(error, difference):
    """At recall 62 the frontier is at 11."""
    others = {name: constant(*point) for name, point in ARMS.items()}
    control = _compare([constant(62, error)] * 2, [others] * 2)
    assert (control.difference.value, control.remark) == (difference, "")


def test_beyond_every_cut_the_largest_recall_takes_the_place():
    """Recall 82: against E (80, 16), and said so."""
    others = {name: constant(r / 100, e / 100) for name, (r, e) in ARMS.items()}
    control = _compare([constant(0.82, 0.15)] * 2, [others] * 2)
    assert control.difference.value == pytest.approx(-0.01)
    assert control.remark == "recall 82.0%; no cut has more than 80.0%"


def test_members_are_chosen_on_one_half_and_measured_on_the_other():
    """On the second half A is dominated and B is not; on the first the reverse.

    First half, members of the second (B: recall 60, error 20): 10 - 20. Second half, members of the first (A: 60, 30):
    10 - 30. Mean -15; with members of the same half, it would be 10 - 5 twice: +5.
    """
    first = {"A": constant(60, 5), "B": constant(60, 20)}
    second = {"A": constant(60, 30), "B": constant(60, 5)}
    assert _compare([constant(60, 10)] * 2, [first, second]).difference.value == -15


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


def test_right_objects_that_no_cut_keeps_are_better_than_cutting():
    items, rows = captions(24, greedy="A cat. A bed. A dog. A car.", right="A dog. A car. A cup.")
    (right,) = evaluate(Chair(), items, rows, ["greedy", "right"]).evidence
    (control,) = right.controls
    assert right.better_than_controls == "yes"
    assert control.difference.value == pytest.approx(0 - 2 / 4)
    assert control.remark == "recall 100.0%; no cut has more than 66.7%"
