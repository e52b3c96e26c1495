"""Forest plots: places on the axis against hand-computed ones."""

from __future__ import annotations

import pytest

from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.evaluation import Cell
from mmhall.benchmarks.report.forest import axis_ticks, draw_forest
from mmhall.benchmarks.report.summary import Head
from mmhall.results.statistics import Difference, Estimate

HEAD = Head("chair", "captions", "CHAIR_i (%)", "CHAIR_i")


def cell(strategy, *ends, holm=0.5):
    difference = Difference(*ends, 0.0004, "paired permutation", holm=holm) if ends else None
    return Cell("chair", "captions", Chair.metrics[0], strategy, Estimate(0.2, 0.1, 0.3, 2, 10), difference)


def test_places_are_percent_of_one_axis_with_nought():
    cells = [cell("greedy"), cell("vdd", -0.05, -0.08, -0.02, holm=0.001), cell("vhr", 0.01, -0.01, 0.02)]
    (panel,) = draw_forest({HEAD: cells})
    # from -8 to 2 points, and 0.6 on either side: 11.2 in all
    assert list(panel.whiskers) == ["vdd", "vhr"]
    vdd, vhr = panel.whiskers.values()
    assert (vdd.low, vdd.value, vdd.high) == pytest.approx((5.36, 32.14, 58.93), abs=0.01)
    assert (vhr.low, vhr.value, vhr.high) == pytest.approx((67.86, 85.71, 94.64), abs=0.01)
    assert (vdd.mark, vhr.mark, panel.better) == ("better", "", "lower")
    assert vdd.text == "-5.0 [-8.0, -2.0] p<0.001 (0.001)"
    assert panel.ticks == ((32.14, "-5"), (76.79, "0"))


def test_an_axis_has_nought_though_all_lie_on_one_side_and_none_differs():
    (panel,) = draw_forest({HEAD: [cell("greedy"), cell("vdd", 0.05, 0.04, 0.06)]})
    assert "0" in [label for _, label in panel.ticks]
    (panel,) = draw_forest({HEAD: [cell("greedy"), cell("var", 0.0, 0.0, 0.0)]})
    assert panel.whiskers["var"].value == 50


def test_nothing_compared_nothing_drawn():
    assert draw_forest({HEAD: [cell("greedy")], Head("pope", "random", "accuracy (%)"): []}) == []


@pytest.mark.parametrize("power", range(-4, 5))
def test_ticks_are_few_and_round(power):
    for low, high in ((-7.4, 2.1), (-0.1, 9.9), (-1, 0.01), (0, 1)):
        ticks = axis_ticks(low * 10.0**power, high * 10.0**power)
        assert 0.0 in ticks
        assert 2 <= len(ticks) <= 5
