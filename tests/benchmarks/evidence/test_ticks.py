"""Ticks of a row: over the baseline, over random twins, over plain controls; no-op alarm and decoding rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmhall.benchmarks.base import Metric
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.evidence import Control, Evidence, Lineup, lineup_of
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.report.evidence import evidence_remarks, evidence_sections, figures_text
from mmhall.benchmarks.report.table import as_data, remarks, sections
from mmhall.benchmarks.run.runs import Part
from mmhall.results.statistics import Difference, Resampler, bootstrap_difference, ratio
from mmhall.results.store import Row
from tests.benchmarks.test_evaluation import item

CHAIR_S = Metric("CHAIR_s", {"flawed": 1}, {"n": 1}, "lower")
CLEAR = Difference(-0.1, -0.12, -0.08, 0.001, "paired bootstrap", holm=0.001)
UNCLEAR = replace(CLEAR, p=0.04, holm=0.08)

# Figures in percent: greedy 48.0, the method 40.1, its twins with mean 42.1.
TOY = Evidence(
    benchmark="chair",
    group="captions",
    metric=CHAIR_S,
    strategy="vdd",
    baseline="greedy",
    value=0.401,
    base_value=0.480,
    twins=(0.410, 0.432, 0.398, 0.440, 0.425),
    changed=300,
    answers=400,
    over_baseline=CLEAR,
    over_twins=CLEAR,
)


def test_inside_the_range_of_its_twins_a_gain_over_greedy_gets_no_tick():
    assert figures_text(TOY) == "40.1 · twins 42.1 [39.8-44.0] · greedy 48.0"
    assert (TOY.better_than_baseline, TOY.better_than_twins, TOY.better_than_controls) == ("yes", "no", "not run")


def test_outside_the_range_on_the_good_side_the_difference_decides():
    outside = replace(TOY, value=0.39)
    assert outside.better_than_twins == "yes"
    assert replace(outside, over_twins=UNCLEAR).better_than_twins == "no"
    assert replace(TOY, value=0.45).better_than_twins == "no"  # outside, on the bad side
    assert replace(TOY, twins=(), over_twins=None).better_than_twins == "not run"
    higher = replace(outside, metric=replace(CHAIR_S, better="higher"), over_twins=replace(CLEAR, value=0.1))
    assert higher.better_than_twins == "no"
    assert replace(higher, value=0.45).better_than_twins == "yes"


@pytest.mark.parametrize(("changed", "alarm"), [(3, True), (4, False)])
def test_below_one_answer_in_a_hundred_nothing_was_done(changed, alarm):
    """3 of 400 are 0.75 %, 4 are 1 %."""
    row = replace(TOY, value=0.39, changed=changed, controls=(Control("apc", CLEAR),))
    assert row.did_nothing is alarm
    ticks = {row.better_than_baseline, row.better_than_twins, row.better_than_controls}
    assert ticks == {"no" if alarm else "yes"}
    assert (f"did nothing ({changed} of 400 answers differ)" in evidence_remarks(row)) is alarm


def test_every_plain_control_must_be_beaten():
    beaten, even = Control("apc", CLEAR), Control("yes-shift", UNCLEAR)
    assert replace(TOY, controls=(beaten,)).better_than_controls == "yes"
    assert replace(TOY, controls=(beaten, even)).better_than_controls == "no"
    assert replace(TOY, controls=(beaten, Control("x", None))).better_than_controls == "not run"
    assert "apc: -10.0 [-12.0, -8.0] p=0.001" in evidence_remarks(replace(TOY, controls=(beaten,)))


def test_another_decoding_rule_gets_no_tick_and_a_mark():
    row = replace(TOY, rules=("greedy", "sampling (temperature 1.0)"))
    assert row.better_than_baseline == "not run"
    assert "other rule: sampling (temperature 1.0), not greedy" in evidence_remarks(row)


def test_a_twin_is_its_strategy_with_a_seed():
    specs = ["greedy", "vdd(alpha=0.5)", "vdd(twin=2, alpha=0.5)", "vdd(twin=1)", "vhr+vdd", "vhr(twin=3)+vdd(twin=3)"]
    lineup = lineup_of([*specs, "apc(beta=0.2)", "an answer file (1)"], {"greedy": "greedy", "vhr+vdd": "beam 5"})
    assert lineup.twins == {"vdd(alpha=0.5)": (specs[2],), "vhr+vdd": (specs[5],)}
    assert lineup.arms == ("greedy", specs[1], "vdd(twin=1)", "vhr+vdd", "apc(beta=0.2)", "an answer file (1)")
    assert lineup.controls == ("apc(beta=0.2)",)
    assert lineup_of(["greedy", "vcd+yes-prompt", "yes-prompt+apc"]).controls == ("yes-prompt+apc",)
    assert [lineup.rule(arm) for arm in ("vhr+vdd", "apc(beta=0.2)")] == ["beam 5", "greedy"]


def test_bootstrap_p_is_twice_the_smaller_share_of_draws():
    """Of ten draws one is below 0: p = 0.2. All above: the floor of one in ten. Draws without a value do not count."""
    assert bootstrap_difference(1.0, np.array([-1.0, *np.ones(9), np.nan])).p == pytest.approx(0.2)
    assert bootstrap_difference(1.0, np.ones(10)).p == pytest.approx(0.1)
    assert bootstrap_difference(0.0, np.zeros(10)).p == 1.0
    assert bootstrap_difference(np.nan, np.ones(10)) is None


def test_the_mean_over_twins_is_subtracted_on_the_same_draws():
    """Twins with figures 0.5 and 0.25, the method 1: difference 0.625, and 0 with itself in every draw."""
    ones, resampler = np.ones(4), Resampler(["a", "b", "c", "d"])
    method, twins = [ones, ones], [[np.array([1.0, 1, 0, 0]), ones], [np.array([1.0, 0, 0, 0]), ones]]
    assert resampler.difference_from_mean(ratio, method, twins).value == pytest.approx(1 - (0.5 + 0.25) / 2)
    same = resampler.difference_from_mean(ratio, method, [method, method])
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def answered(items, **texts):
    return [
        Row("pope", one.id, name, text, "eos", 2, 1.0, 0)
        for name, said in texts.items()
        for one, text in zip(items, said, strict=True)
    ]


@pytest.fixture(scope="module")
def judged():
    """Forty questions of forty pictures: greedy is right on 20, the method on 38, its twins on 24 and 22, apc on 20."""
    items = [replace(item(n, "yes"), picture=f"{n}", cluster=f"{n}") for n in range(40)]

    def right(count):
        return ["Yes"] * count + ["No"] * (40 - count)

    arms = {"greedy": right(20), "vdd": right(38), "vdd(twin=1)": right(24), "vdd(twin=2)": right(22), "apc": right(20)}
    lineup = lineup_of(list(arms))
    return items, Pope().evaluate(items, answered(items, **arms), list(arms), lineup), lineup


def test_twins_are_no_rows_and_stand_beside_their_strategy(judged):
    _, evaluation, _ = judged
    assert {cell.strategy for cell in evaluation.cells} == {"greedy", "vdd", "apc"}
    vdd, apc = evaluation.evidence
    assert (vdd.value, vdd.base_value, vdd.twins) == (0.95, 0.5, (0.6, 0.55))
    assert vdd.over_twins.value == pytest.approx(0.95 - 0.575)
    assert (vdd.changed, vdd.answers) == (18, 40)
    assert (vdd.better_than_baseline, vdd.better_than_twins, vdd.better_than_controls) == ("yes", "yes", "yes")
    assert [control.name for control in vdd.controls] == ["apc"]
    assert (apc.better_than_baseline, apc.better_than_twins, apc.better_than_controls) == ("no", "not run", "not run")
    assert apc.did_nothing


def test_holm_counts_the_rows_of_a_table():
    """With a second method, the smaller p of a column counts twice."""
    items = [replace(item(n, "yes"), picture=f"{n}", cluster=f"{n}") for n in range(12)]

    def right(count):
        return ["Yes"] * count + ["No"] * (12 - count)

    arms = {"greedy": right(2), "vdd": right(8), "m3id": right(6), "vdd(twin=1)": right(4), "m3id(twin=1)": right(4)}
    arms |= {"apc": right(2)}
    vdd, m3id, _ = evaluate(Pope(), items, answered(items, **arms), list(arms)).evidence
    for one, other in ((vdd.over_twins, m3id.over_twins), (vdd.controls[0].difference, m3id.controls[0].difference)):
        assert one.p < other.p
        assert one.holm == pytest.approx(min(1, 2 * one.p))
        assert other.holm == pytest.approx(max(one.holm, other.p))


def test_controls_of_another_rule_are_left_out(judged):
    items, *_ = judged
    rows = answered(items, greedy=["No"] * 40, vdd=["Yes"] * 40, apc=["No"] * 40)
    sampled = Lineup(("greedy", "vdd", "apc"), {}, ("apc",), {"greedy": "greedy", "apc": "sampling"})
    vdd, apc = evaluate(Pope(), items, rows, list(sampled.arms), sampled).evidence
    assert (vdd.controls, vdd.better_than_controls) == ((), "not run")
    assert apc.rules == ("greedy", "sampling")


def test_report_shows_the_ticks_and_their_legend(judged):
    items, evaluation, _ = judged
    (table,) = evidence_sections(evaluation, "random")
    first, *rest = table.lines
    assert table.metrics == ("accuracy (%)", "> baseline", "> twins", "> plain", "changed")
    assert first.strategy == "vdd"
    assert first.values == ("95.0 · twins 57.5 [55.0-60.0] · greedy 50.0", "yes", "yes", "yes", "45.0%")
    assert rest[0].differences[0].startswith("did nothing (0 of 40 answers differ)")
    evaluated = [(Part(Pope(), items, {}), evaluation)]
    titles = [section.title for section in sections(evaluated)]
    assert titles[1] == "pope random, evidence; the baseline is greedy"
    assert any(line.startswith("Evidence: three ticks") for line in remarks(evaluated, {"greedy": "greedy"}))
    assert "Not run: cgd: no CLIP" in remarks(evaluated, {"greedy": "greedy"}, {"cgd": "no CLIP"})
    record = as_data(evaluated, {"strategies": ["greedy", "vdd", "apc"]})["evidence"][0]
    assert (record["better_than_twins"], record["metric"]) == ("yes", "accuracy")


def test_a_run_of_one_strategy_has_no_evidence(judged):
    items, *_ = judged
    assert not evaluate(Pope(), items, answered(items, greedy=["No"] * 40), ["greedy"]).evidence
    assert Chair().trades in [metric.name for metric in Chair.metrics]
