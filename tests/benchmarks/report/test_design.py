"""What a run says about itself: declared comparisons, detectable differences, few pictures, cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmhall.benchmarks.base import COUNTED
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.report.design import design_remarks
from mmhall.benchmarks.report.table import COST, cost_lines, remarks
from mmhall.benchmarks.run.runs import Part
from mmhall.results.intervals import detectable
from tests.benchmarks.test_evaluation import item, row

COUNTS = {
    "greedy": {"prompt_reads": 30.0, "prompt_tokens": 60, "passes": 4, "rows": 4.0, "tokens": 4},
    "vcd": {"prompt_reads": 120.0, "prompt_tokens": 60, "passes": 4, "rows": 8.0, "tokens": 4},
}


def evaluated(pictures, strategies=("greedy", "vcd")):
    """A question of each picture; the method changes two answers, both for the better."""
    items = [replace(item(n, "yes"), picture=f"{n}", cluster=f"{n}") for n in range(pictures)]
    rows = [
        replace(row(n, name, "Yes" if n > 4 or (name != "greedy" and n < 2) else "No"), extra={COUNTED: COUNTS[name]})
        for name in strategies
        for n in range(pictures)
    ]
    return Part(Pope(), items, {}), evaluate(Pope(), items, rows, list(strategies))


def test_family_and_detectable_difference_are_told():
    part, found = evaluated(80)
    family, power = design_remarks(part, found)
    assert family.startswith(
        "pope: the primary metric is accuracy; the declared family is its 1 comparison in each table."
    )
    difference = next(c.difference for c in found.cells if c.strategy == "vcd" and c.metric.name == "accuracy")
    least = detectable(difference.low, difference.high, 80)
    assert difference.detectable == pytest.approx(least)
    assert power.startswith(
        f"pope: random: a difference of {100 * least:.1f} (vcd) points of accuracy would be found with"
    )


def test_few_pictures_and_single_strategies_are_told():
    part, found = evaluated(59)
    assert any("fewer than 60 pictures (random 59)" in text for text in design_remarks(part, found))
    assert design_remarks(*evaluated(60, ("greedy",))) == []
    part, found = evaluated(5)
    assert "pope: random: no difference in accuracy can be shown with so few pictures" in design_remarks(part, found)


def test_rows_count_over_each_answers_own_tokens():
    """Answers of 5 and 2 tokens, of which 4 and 1 are read, two rows each: 10 rows in 4 passes, half of them each."""
    items = [replace(item(n, "yes"), picture=f"{n}", cluster=f"{n}") for n in range(2)]
    counts = {"prompt_reads": 60.0, "prompt_tokens": 60, "passes": 4, "rows": 5.0, "tokens": 4}
    rows = [replace(row(n, "vcd", "Yes"), extra={COUNTED: {**counts, "read": read}}) for n, read in enumerate((4, 1))]
    (cost,) = evaluate(Pope(), items, rows, ["vcd"]).costs
    assert (cost.rows, cost.passes, cost.prompt) == (2, 1, 1)


def test_costs_are_counted_first_and_seconds_labelled():
    """Greedy shares half of its prompts; the contrast reads each twice, and two rows for each token in one pass."""
    part, found = evaluated(8)
    (greedy, vcd) = cost_lines([(part, found)])
    assert COST[2:5] == ("rows per token", "passes per token", "prompt read, times")
    assert greedy[2:5] == ("1.00", "1.00", "0.50")
    assert vcd[2:5] == ("2.00", "1.00", "2.00")
    assert any("Seconds were measured beside" in text for text in remarks([(part, found)], {"greedy": "greedy"}))
    old = [row(n, "greedy", "Yes") for n in range(8)]
    assert cost_lines([(part, evaluate(Pope(), part.items, old, ["greedy"]))])[0][2:5] == ("-", "-", "-")
