"""The report on yes/no answers: the ranking block, the turned answers, other decoding rules in the head."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.evidence import Lineup
from mmhall.benchmarks.evidence.threshold import SCORE
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.report.table import as_data, remarks, sections
from mmhall.benchmarks.report.yesno import LEGEND, TURNED
from mmhall.benchmarks.run.runs import Part
from tests.benchmarks.conftest import answered

LABELS = ["yes"] * 10 + ["no"] * 10
PLAIN = np.array([1.0] * 9 + [-3.0] + [0.5, 0.5] + [-1.0] * 8)  # 9 of 10 yes are found, 2 of 10 no are called yes
MORE = PLAIN + 4


def items():
    return [Item(f"{n}", f"p{n}", "?", ("random",), {"label": label}) for n, label in enumerate(LABELS)]


def rows(strategy, scores, texts=None):
    texts = texts or ["Yes" if score > 0 else "No" for score in scores]
    return answered(Pope(), items(), texts, strategy, [{SCORE: float(score)} for score in scores])


@pytest.fixture(scope="module")
def evaluation():
    """The second strategy says yes to everything."""
    return evaluate(Pope(), items(), [*rows("greedy", PLAIN), *rows("more", MORE)], ["greedy", "more"])


@pytest.fixture(scope="module")
def unreadable():
    """The second strategy is unreadable where the first is right, once."""
    answers = ["hm", *("Yes" if score > 0 else "No" for score in PLAIN[1:])]
    return evaluate(Pope(), items(), [*rows("greedy", PLAIN), *rows("hm", PLAIN, answers)], ["greedy", "hm"])


def table(tables, words):
    return next(section for section in tables if words in section.title)


def test_the_ranking_block(evaluation):
    """AUROC by hand: nine yes at 1 beat all ten no; the one at -3 beats none: 90 of 100.

    d' = 1.8447, so that a threshold gives at best 0.8218. Plain + b that always says yes is right on ten of twenty.
    """
    block = table(sections([(Part(Pope(), items(), {}), evaluation)]), "yes and no told apart")
    greedy, more = block.lines
    assert block.metrics[:2] == ("AUROC (%)", "accuracy (%)")
    assert block.metrics[2:] == ("greedy + b, as many yes", "best balanced accuracy a threshold can give", "verdict")
    assert greedy.values[0].startswith("90.0 [")
    assert greedy.values[1:] == ("85.0", "", "82.2%", "")
    assert more.values[1:3] == ("50.0", "50.0")
    assert more.values[4] == "no gain"
    assert more.differences[0].startswith("+0.0 [+0.0, +0.0] p=1.0")
    assert more.differences[2].startswith("+0.0 [")
    shown = remarks([(Part(Pope(), items(), {}), evaluation)], {"greedy": "greedy"})
    assert LEGEND in shown
    assert TURNED in shown


def test_the_turned_answers(evaluation, unreadable):
    """From greedy, "more" finds one yes and calls eight no yes; "hm" loses one right answer by being unreadable."""
    tables = (sections([(Part(Pope(), items(), {}), each)]) for each in (evaluation, unreadable))
    (more,), (hm,) = (table(each, "answers that turned").lines for each in tables)
    assert more.values == ("1", "0", "0", "8", "9", "2", "0", "1 / 8, p=0.039")  # 2 (1 + 9) / 2^9
    assert hm.values == ("0", "0", "0", "0", "16", "3", "1: 0 gained, 1 lost", "0 / 1, p=1.0")


def test_json_holds_the_same(evaluation, unreadable):
    setup = {"strategies": ["greedy", "more"]}
    told = (as_data([(Part(Pope(), items(), {}), each)], setup)["evidence"] for each in (evaluation, unreadable))
    (more,), (hm,) = json.loads(json.dumps(list(told)))
    assert (more["turns"]["fn_to_tp"], more["turns"]["tn_to_fp"], more["turns"]["gained"]) == (1, 8, 1)
    assert (hm["turns"]["became_unreadable"], hm["turns"]["unreadable"]) == (1, 1)
    assert (more["ranking"]["shifted_value"], more["ranking"]["base"]["value"]) == (0.5, 0.9)
    assert more["ranking"]["base_best_balanced"] == pytest.approx(0.8218, abs=1e-4)
    assert more["verdict"] == "no gain"


def test_the_head_of_a_table_names_other_decoding_rules():
    """Two rules are not compared, and the baseline is not shifted."""
    answers = [*rows("greedy", PLAIN), *rows("drawn", MORE)]
    lineup = Lineup(("greedy", "drawn"), rules={"greedy": "greedy", "drawn": "sampling (temperature 1.0)"})
    evaluation = evaluate(Pope(), items(), answers, ["greedy", "drawn"], lineup)
    tables = sections([(Part(Pope(), items(), {}), evaluation)])
    mark = "; decoding rules differ: baseline greedy, drawn: sampling (temperature 1.0)"
    assert [section.title.endswith(mark) for section in tables][:4] == [True, True, False, True]
    (line,) = table(tables, "told apart").lines[1:]
    assert (line.values[2], line.values[4]) == ("not run", "not run")
