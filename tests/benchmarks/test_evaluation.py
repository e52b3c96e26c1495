from __future__ import annotations

import pytest

from mmhall.benchmarks.base import Item, series, share_equal
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.pope import Pope
from mmhall.results.store import Row


def item(number, label):
    return Item(f"{number}", f"picture {number // 2}", "?", ("random",), {"label": label})


def row(number, strategy, text, seconds=1.0, batch=0):
    return Row("pope", f"{number}", strategy, text, "eos", 2, seconds, batch)


ITEMS = [item(n, "yes" if n % 2 == 0 else "no") for n in range(8)]
GREEDY = ["Yes", "Yes", "Yes", "No", "No", "No", "Yes", "Yes"]
OTHER = ["Yes", "No", "Yes", "No", "Yes", "No", "Yes", "maybe"]


def rows():
    return [
        row(n, s, texts[n], seconds, n // 4)
        for s, texts, seconds in (("greedy", GREEDY, 1.0), ("other", OTHER, 2.5))
        for n in range(8)
    ]


def cell(evaluation, strategy, metric):
    return next(c for c in evaluation.cells if c.strategy == strategy and c.metric.name == metric)


def test_values_by_hand():
    """greedy: wrong at 1, 4, 7 -> accuracy 5/8; says yes 5 times, 3 rightly, of 4 -> F1 6/9.

    other: wrong at 7 only, unparsed -> accuracy 7/8; wins at 1 and 4, loses nowhere: of the four ways to
    exchange pictures 0 and 2, two are as extreme -> p = 0.5.
    """
    evaluation = evaluate(Pope(), ITEMS, rows(), ["greedy", "other"])
    assert cell(evaluation, "greedy", "accuracy").estimate.value == 5 / 8
    assert cell(evaluation, "greedy", "F1").estimate.value == pytest.approx(6 / 9)
    other = cell(evaluation, "other", "accuracy")
    assert other.estimate.value == 7 / 8
    assert other.difference.value == pytest.approx(2 / 8)
    assert other.difference.p == pytest.approx(0.5, abs=0.02)
    assert other.difference.test == "paired permutation"
    assert cell(evaluation, "other", "unparsed").estimate.over == 1
    assert cell(evaluation, "other", "F1").difference.test == "paired permutation"
    assert cell(evaluation, "greedy", "accuracy").difference is None


def test_an_item_one_strategy_lacks_counts_for_none():
    evaluation = evaluate(
        Pope(), ITEMS, [r for r in rows() if (r.item, r.strategy) != ("4", "other")], ["greedy", "other"]
    )
    assert (evaluation.scored, evaluation.expected) == (7, 8)
    assert cell(evaluation, "greedy", "accuracy").estimate.under == 7


def test_cost_is_the_ratio_of_batches():
    costs = {c.strategy: c for c in evaluate(Pope(), ITEMS, rows(), ["greedy", "other"]).costs}
    assert costs["greedy"].ratio is None
    assert (costs["other"].seconds, costs["other"].ratio) == (2.5, 2.5)


def test_no_answers_give_no_cells():
    evaluation = evaluate(Pope(), ITEMS, [], ["greedy", "other"])
    assert (evaluation.cells, evaluation.costs, evaluation.scored) == ((), (), 0)


def test_one_question_a_picture_is_tested_by_mcnemar():
    """Wins at 1 and 4, loses nowhere: 2 * 0.25 = 0.5."""
    alone = [Item(i.id, i.id, i.prompt, i.groups, i.truth) for i in ITEMS]
    difference = cell(evaluate(Pope(), alone, rows(), ["greedy", "other"]), "other", "accuracy").difference
    assert (difference.p, difference.test) == (0.5, "exact McNemar")


def test_sizes_are_those_of_what_counts():
    partial = [r for r in rows() if (r.item, r.strategy) != ("4", "other")]
    assert evaluate(Pope(), ITEMS, partial, ["greedy", "other"]).sizes == {"random": (7, 4)}


def test_strategies_compared_together_are_corrected_together():
    """Two strategies: the smaller p counts twice; McNemar over questions stands beside the test by picture."""
    third = [row(n, "third", text) for n, text in enumerate(OTHER[:4] + GREEDY[4:])]
    evaluation = evaluate(Pope(), ITEMS, rows() + third, ["greedy", "other", "third"])
    other, third = (cell(evaluation, s, "accuracy").difference for s in ("other", "third"))
    assert other.holm == pytest.approx(min(1.0, 2 * other.p))
    assert third.holm == pytest.approx(max(other.holm, third.p))
    assert (other.turned, other.exact) == ((2, 0), 0.5)
    assert cell(evaluation, "other", "F1").difference.turned is None


def test_a_failed_item_is_no_answer():
    failed = [Row("pope", "4", "other", "", "", 0, 0.0, 1, error="the picture is torn")]
    kept = [r for r in rows() if (r.item, r.strategy) != ("4", "other")]
    evaluation = evaluate(Pope(), ITEMS, kept + failed, ["greedy", "other"])
    assert evaluation.scored == 7
    assert evaluation.failed == {"greedy": 0, "other": 1}


def test_equal_counts_are_one_object_and_are_summed_as_before():
    """Twice 2 * 3 + 1 and once 2 * 3 + 4; what is shared is not changed by sums over other names."""
    counts = [{"a": 3, "b": 1}, {"a": 3, "b": 4}, {"a": 3, "b": 1}]
    shared = share_equal(counts)
    assert shared == counts
    assert shared[0] is shared[2]
    assert shared[0] is not shared[1]
    for each in (counts, shared):
        assert list(series(each, {"a": 2, "b": 1})) == [7, 10, 7]
        assert list(series(each, {"b": -1})) == [-1, -4, -1]
    assert list(series([], {"a": 1})) == []


def test_counts_of_one_answer_can_be_changed_without_changing_anothers():
    """Sycophancy adds to them; equal answers of a million questions are read once."""
    pope = Pope()
    first = pope.count(ITEMS[0], "Yes")
    first["n"] = 7
    assert pope.count(ITEMS[0], "Yes")["n"] == 1
