"""Positive and negative controls: what counts as help, what is expected of whom, and models that are not shipped."""

from __future__ import annotations

import pytest

from mmhall.benchmarks.base import Metric
from mmhall.benchmarks.evidence import Control, Evidence
from mmhall.benchmarks.mechanisms import (
    EXPECTATIONS,
    is_expected,
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
