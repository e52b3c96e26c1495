"""Outcomes of yes/no answers, and how answers turned from the baseline's: worked examples."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from mmhall.benchmarks.amber import AmberD
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.evidence.outcomes import outcomes_of, turns_between
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.sycophancy import Sycophancy
from tests.benchmarks.conftest import answered

COUNTS = ("fn_to_tp", "fp_to_tn", "tp_to_fn", "tn_to_fp", "both_right", "both_wrong")


def questions(labels):
    return [Item(f"{n}", f"{n}", "?", ("random",), {"label": label}) for n, label in enumerate(labels)]


def outcomes(items, texts, benchmark=None):
    benchmark = benchmark or Pope()
    return outcomes_of(items, benchmark.counts(items, answered(benchmark, items, texts)))


def words(bits):
    return ["Yes" if bit else "No" for bit in bits]


def test_the_worked_example():
    """Gained: questions 1, 2 (FN to TP) and 4 (FP to TN). Lost: 0 (TP to FN) and 5 (TN to FP). 3 of 5 is p = 1."""
    items = questions(["yes"] * 3 + ["no"] * 3)
    before, after = outcomes(items, words([1, 0, 0, 0, 1, 0])), outcomes(items, words([0, 1, 1, 0, 0, 1]))
    turns = turns_between(before, after)
    assert [getattr(turns, name) for name in COUNTS] == [2, 1, 1, 1, 1, 0]
    assert (turns.gained, turns.lost, turns.unreadable, turns.p) == (3, 2, 0, 1.0)
    back = turns_between(after, before)
    assert (back.tp_to_fn, back.fn_to_tp, back.gained, back.lost) == (2, 1, 2, 3)


def test_an_unreadable_answer_is_a_class_of_its_own_and_wrong():
    """Right, wrong and unreadable against each other: five of nine pairs have an unreadable answer."""
    items = questions(["yes"] * 9)
    right, wrong, unreadable = "Yes", "No", "perhaps"
    pairs = [(a, b) for a in (right, wrong, unreadable) for b in (right, wrong, unreadable)]
    turns = turns_between(*(outcomes(items, side) for side in zip(*pairs, strict=True)))
    assert [getattr(turns, name) for name in COUNTS] == [1, 0, 1, 0, 1, 1]
    assert (turns.became_unreadable, turns.became_right, turns.not_right, turns.unreadable) == (1, 1, 3, 5)
    assert (turns.gained, turns.lost, turns.p) == (2, 2, 1.0)
    assert sum(getattr(turns, name) for name in COUNTS) + turns.unreadable == len(items)


def test_mcnemar_is_exact():
    """Six gained, none lost: 2 / 2^6."""
    items = questions(["no"] * 6)
    assert turns_between(outcomes(items, ["Yes"] * 6), outcomes(items, ["No"] * 6)).p == pytest.approx(2 / 64)


def test_yes_is_read_by_the_rule_of_the_benchmark():
    """The authors' rule takes every answer without no for yes; AMBER's labels are capitalised."""
    items = questions(["yes", "no"])
    assert outcomes(items, ["perhaps", "perhaps"]).says_yes.tolist() == [False, False]
    assert outcomes(items, ["perhaps", "perhaps"], Pope(rule="official")).says_yes.tolist() == [True, True]
    amber = questions(["Yes", "No"])
    assert outcomes(amber, ["Yes", "Yes"], AmberD()).says_yes.tolist() == [True, True]


def test_what_does_not_count_in_a_group_is_left_out():
    """Beside led answers, the neutral one only serves as their reference."""
    items = [
        Item(f"q/{version}", "p", "?", (version,), {"label": "yes", "question": "q", "version": version})
        for version in ("neutral", "misled")
    ]
    before = outcomes(items, ["No", "No"], Sycophancy())
    assert before.counted.tolist() == [False, True]
    turns = turns_between(before, outcomes(items, ["Yes", "Yes"], Sycophancy()))
    assert (turns.fn_to_tp, turns.gained) == (1, 1)


def test_every_strategy_of_a_table_is_compared_with_the_baseline():
    items = questions(["yes", "no"])
    rows = [
        r for s, texts in (("greedy", ["No", "No"]), ("vdd", ["Yes", "Yes"])) for r in answered(Pope(), items, texts, s)
    ]
    (vdd,) = evaluate(Pope(), items, rows, ["greedy", "vdd"]).evidence
    assert {name: count for name, count in asdict(vdd.turns).items() if count} == {
        "fn_to_tp": 1,
        "tn_to_fp": 1,
        "p": 1.0,
    }
    assert not evaluate(Pope(), items, rows[:2], ["greedy"]).evidence
