"""The first screen of a report: sentences name controls that reach a gain, the table fits, papers get it whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.evidence.frontier import NAME as FRONTIER
from mmhall.benchmarks.evidence.ticks import Control, Evidence
from mmhall.benchmarks.report.formats import as_latex, as_markdown, as_text, latex
from mmhall.benchmarks.report.summary import Entry, Head, Statement, Summary, statement, ticks_text
from mmhall.results.statistics import Difference

GAIN = Difference(-0.05, -0.07, -0.03, 0.001, "paired permutation", holm=0.002, bound=0.07)
LOSS = replace(GAIN, value=0.05, low=0.03, high=0.07)
UNCLEAR = replace(GAIN, p=0.2, holm=0.4, bound=0.06)
NONE = replace(GAIN, value=0.001, low=-0.01, high=0.01, p=0.9, holm=1.0, bound=0.011)
ROW = Evidence(
    benchmark="chair",
    group="captions",
    metric=Chair.metrics[0],
    strategy="vdd",
    baseline="greedy",
    value=0.16,
    base_value=0.21,
    twins=(),
    changed=300,
    answers=400,
    over_baseline=GAIN,
)


def test_a_gain_names_the_controls_that_reach_it_and_what_was_not_compared():
    figures = "CHAIR_i 16.0, greedy 21.0, -5.0 [-7.0, -3.0] p=0.001 (0.002)"
    missing = "not compared with its random twins and what needs no method"
    assert statement(ROW) == f"{figures}; {missing}"
    reached = replace(ROW, controls=(Control("brief", GAIN), Control(FRONTIER, UNCLEAR)))
    assert statement(reached) == (
        f"{figures}; not shown to be better than plain captions of its recall; not compared with its random twins"
    )
    drawn = replace(reached, twins=(0.15, 0.17), over_twins=UNCLEAR)
    assert statement(drawn) == f"{figures}; not shown to be better than its random twins, plain captions of its recall"
    beyond = replace(ROW, twins=(0.2,), over_twins=GAIN, controls=(Control(FRONTIER, UNCLEAR, "none reaches it"),))
    assert "than the plain captions that find most (none has its recall); better than its random twins" in statement(
        beyond
    )
    partly = replace(ROW, controls=(Control("apc", UNCLEAR), Control("olm", None)))
    assert statement(partly).endswith("than apc; not compared with its random twins and olm")
    best = replace(ROW, twins=(0.2, 0.21), over_twins=GAIN, controls=(Control(FRONTIER, GAIN),))
    assert statement(best) == f"{figures}; better than its random twins and what needs no method"
    assert [ticks_text(row) for row in (ROW, reached, drawn, best)] == ["✓··", "✓·✗", "✓✗✗", "✓✓✓"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"over_baseline": LOSS}, "CHAIR_i 16.0, greedy 21.0: worse than greedy"),
        ({"over_baseline": NONE}, "CHAIR_i 16.0, greedy 21.0: no effect larger than 2.0 points"),
        (
            {"over_baseline": UNCLEAR},
            "CHAIR_i 16.0, greedy 21.0: not shown to be better, -5.0 [-7.0, -3.0] p=0.2 (0.4)",
        ),
        ({"over_baseline": None}, "no value of CHAIR_i"),
        ({"changed": 3}, "did nothing: 3 of 400 answers differ"),
        ({"rules": ("greedy", "beam 5")}, "beam 5 is another decoding rule than greedy, not compared"),
        ({"lacks_seeds": True}, "CHAIR_i 16.0, greedy 21.0: sampled, with too few seeds to say more"),
    ],
)
def test_no_gain_is_claimed_without_one(change, told):
    assert statement(replace(ROW, **change)) == told


def table(columns, strategies=("greedy", "vcd")):
    heads = tuple(Head("chair", f"group {n // 2}", f"figure number {n} (%)") for n in range(columns))
    entry = Entry("16.6", "16.6 [14.4, 18.9]; -4.8 [-6.7, -2.8] p<0.001", "better", 0.0002)
    lines = dict.fromkeys(strategies, (entry,) * columns)
    told = (Statement("vcd", "chair captions", "CHAIR_i 16.6, greedy 21.3, " + "and so on " * 20),)
    return Summary("greedy, vcd on embedded", ("chair: said",), told, heads, lines, {}, ("held",), ("not run",))


@pytest.mark.parametrize("columns", [1, 5, 23])
def test_the_text_fits_the_width_and_holds_every_figure(columns):
    long = "vhr(alpha=2.0, layers='56%:')+vcd(alpha=0.5)"
    for width in (60, 100):
        text = as_text(table(columns, ("greedy", long)), width)
        assert max(map(len, text.splitlines())) <= width
        assert text.count("16.6 ▲") == 2 * columns
        assert text.count(long) == sum(line.startswith("strategy") for line in text.splitlines())


def test_markdown_has_a_row_for_each_strategy_and_a_cell_for_each_column():
    lines = as_markdown(table(3)).splitlines()
    assert len(lines) == 4
    assert {line.count(" | ") for line in lines} == {3}
    assert lines[2].startswith("| `greedy` | 16.6 [14.4, 18.9]; -4.8 [-6.7, -2.8] p<0.001 ▲ |")


def test_latex_is_escaped_and_balanced():
    text = as_latex(table(2, ("greedy", "m_1 & {50%}")))
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}")
    assert r"\texttt{m\_1 \& \{50\%\}}" in text
    assert r"figure number 0 (\%)" in text
    assert r"p$<$0.001 $\blacktriangle$" in text
    assert text.count(r"\\ \midrule") == 1
    assert latex("a\\b~^$#✓✗·▼") == (
        r"a\textbackslash{}b\textasciitilde{}\textasciicircum{}\$\#$\checkmark$$\times$$\cdot$$\blacktriangledown$"
    )
