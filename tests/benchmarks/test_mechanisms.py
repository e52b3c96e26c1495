"""Positive and negative controls: what counts as help, what is expected of whom, and models that are not shipped."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mmhall.benchmarks.base import Metric
from mmhall.benchmarks.evidence import Control, Evidence
from mmhall.benchmarks.mechanisms import (
    EXPECTATIONS,
    HEAD,
    NOT_SHIPPED,
    PLAIN,
    PRIOR_BELIEF,
    SINKS,
    Expectation,
    Plan,
    cells,
    compare,
    is_expected,
    markdown,
    outcome_of,
)
from mmhall.results.statistics import Difference
from mmhall.strategies import strategy

METRIC = Metric("CHAIR_i", {"absent": 1}, {"named": 1}, "lower")


def difference(value, p):
    return Difference(value, value - 0.01, value + 0.01, p, "paired permutation")


BETTER, WORSE, SAME = difference(-0.05, 0.001), difference(0.05, 0.001), difference(-0.01, 0.5)


def evidence(over, *, twins=(0.2, 0.19), over_twins=BETTER, control=BETTER, changed=50, rules=None):
    return Evidence(
        "chair",
        "captions",
        METRIC,
        "var",
        "greedy",
        0.1,
        0.15,
        twins,
        changed,
        100,
        over,
        over_twins,
        (Control("cut captions", control),),
        rules,
    )


@pytest.mark.parametrize(
    ("weighed", "outcome", "met"),
    [  # whether it is expected of one that helps, acts, does not help, does nothing
        (evidence(BETTER), "helps", (True, True, False, False)),
        (evidence(BETTER, twins=()), "helps", (True, True, False, False)),
        (evidence(BETTER, over_twins=SAME), "no more than a control", (False, True, True, False)),
        (evidence(BETTER, twins=(0.05,)), "no more than a control", (False, True, True, False)),
        (evidence(BETTER, control=SAME), "no more than a control", (False, True, True, False)),
        (evidence(WORSE), "hurts", (False, True, True, False)),
        (evidence(SAME), "acts", (False, True, True, False)),
        (evidence(SAME, changed=9), "hardly acts", (False, False, True, False)),
        (evidence(BETTER, changed=0), "does nothing", (False, False, True, True)),
        (evidence(BETTER, rules=("beam 5", "own search")), "acts", (None, True, None, False)),
    ],
)
def test_outcomes(weighed, outcome, met):
    assert outcome_of(weighed) == outcome
    words = ("helps", "acts", "does not help", "does nothing")
    assert tuple(is_expected(word, weighed) for word in words) == met


def test_the_declared_table_names_strategies_and_figures_that_exist():
    for row in EXPECTATIONS:
        strategy(row.strategy)
        assert row.control != row.carrier
    assert len({(row.strategy, row.benchmark) for row in EXPECTATIONS}) == len(EXPECTATIONS)


@pytest.fixture
def plan(cli, tmp_path):
    commands = []

    def run(arguments):
        commands.append(arguments)
        done = cli(*arguments)
        assert done.returncode == 0, done.stderr

    return Plan(tmp_path / "runs", 2, 1, run), commands


@pytest.mark.slow
def test_expectations_beside_what_happened(plan, tmp_path):
    """`var` finds no massive dimension in the plain model; the carrier is not shipped."""
    plan, commands = plan
    rows = [
        Expectation("var", SINKS, "pope", "adversarial", "embedded/nothing", "helps", on_control="does nothing"),
        Expectation("vdd", PRIOR_BELIEF, "pope", "adversarial", PLAIN, "acts", "embedded/nothing"),
    ]
    lines = list(compare(rows, plan))
    assert [line.model for line in lines] == ["embedded/nothing", PLAIN, PLAIN, "embedded/nothing"]
    assert lines[0].outcome == lines[3].outcome == NOT_SHIPPED
    var, vdd = lines[1:3]
    assert (var.outcome, var.holds, var.changed, var.carries) == ("does nothing", True, 0, True)
    assert vdd.carries is False
    assert "not as declared" in cells(vdd)[2]
    assert [command[0] for command in commands] == ["scenes", "bench", "diagnose"]
    figures = json.loads((tmp_path / "runs" / "embedded" / "diagnosis.json").read_text())["figures"]
    assert var.measured == next(figure["value"] for figure in figures if figure["key"] == "sink_share")
    table = markdown(lines).splitlines()
    assert table[0] == f"| {' | '.join(HEAD)} |"
    assert len(table) == 6
    again = list(compare(rows, replace(plan, run=lambda arguments: None)))
    assert again == lines
