"""Expectations beside what happened, through the commands that run them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mmhall.benchmarks.mechanisms import (
    HEAD,
    NOT_SHIPPED,
    PLAIN,
    PRIOR_BELIEF,
    SINKS,
    Expectation,
    Plan,
    cells,
    compare,
    markdown,
)


@pytest.fixture
def plan(cli, tmp_path):
    commands = []

    def run(arguments):
        commands.append(arguments)
        done = cli(*arguments)
        assert done.returncode == 0, done.stderr

    return Plan(tmp_path / "runs", 2, 1, 5, run), commands


@pytest.mark.slow
@pytest.mark.long
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
