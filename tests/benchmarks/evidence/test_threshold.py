"""Yes/no scores: what a shifted threshold reaches, and how well scores rank."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.evaluation import evaluate
from mmhall.benchmarks.evidence import Evidence, Lineup
from mmhall.benchmarks.evidence.halves import halves
from mmhall.benchmarks.evidence.outcomes import outcomes_of
from mmhall.benchmarks.evidence.threshold import (
    SCORE,
    SHIFTED,
    TUNED,
    Ranking,
    rankings,
    shifted_counts,
    yes_score,
)
from mmhall.benchmarks.pope import Pope
from mmhall.results.statistics import Difference, Estimate, Resampler
from mmhall.results.store import Row

SCORES = np.array([-2.0, -1, -0.5, 0.5, -3, -1.5, -0.8, 0.2])  # four yes questions, four no questions


def questions(labels):
    return [Item(f"{n}", f"{n}", "?", ("random",), {"label": label}) for n, label in enumerate(labels)]


def rows(name, scores, texts=None):
    texts = texts or ["Yes" if score > 0 else "No" for score in scores]
    return [
        Row("pope", f"{n}", name, text, "eos", 2, 1.0, 0, {SCORE: float(score)})
        for n, (score, text) in enumerate(zip(scores, texts, strict=True))
    ]


def test_auroc_counts_pairs():
    """-2 beats one of four, -1 two, -0.5 three, 0.5 four: 10 of 16."""
    items, answers = questions(["yes"] * 4 + ["no"] * 4), {"greedy": rows("greedy", SCORES)}
    outcomes = {"greedy": outcomes_of(items, Pope().counts(items, answers["greedy"]))}
    found = rankings(answers, outcomes, Resampler([item.id for item in items]))
    assert found["greedy"].estimate().value == 0.625
    alone = {"greedy": replace(outcomes["greedy"], is_yes=np.ones(8, bool))}
    assert not rankings(answers, alone, Resampler([item.id for item in items]))


def test_what_a_method_rules_out_has_probability_0():
    """logsumexp(1, 2) - logsumexp(1.5, 1.9) = -0.0998; JSON has no infinity, and 0 against 0 says nothing."""
    adapter = SimpleNamespace(spellings={"yes": [0, 1], "no": [2, 3]}, tokenizer=object())
    assert yes_score(adapter, torch.tensor([1.0, 2.0, 1.5, 1.9, 9.0])) == pytest.approx(-0.0998, abs=1e-4)
    out = -math.inf
    assert yes_score(adapter, torch.tensor([1.0, 2.0, out, out])) == 1e4
    assert yes_score(adapter, torch.tensor([out, out, out, out])) is None


@pytest.fixture(scope="module")
def sixty():
    """Sixty questions; greedy says no to all but one, though its scores rank all but the last two rightly."""
    items = questions(["yes", "no"] * 30)
    scores = np.array([-1.0 - n / 100 if item.truth["label"] == "yes" else -3.0 for n, item in enumerate(items)])
    scores[0] = 1.0
    return items, scores


def test_more_yes_alone_only_shifts(sixty):
    """The method answers as the threshold -2 does: all right, and so is greedy with as many yes."""
    items, scores = sixty
    answers = [*rows("greedy", scores), *rows("more", scores + 2)]
    (more,) = evaluate(Pope(), items, answers, ["greedy", "more"]).evidence
    assert more.better_than_baseline == "yes"
    assert more.better_than_controls == "no"
    assert more.verdict == "only shifts"
    assert more.ranking.difference.value == 0
    assert {control.name: control.difference.value for control in more.controls} == {SHIFTED: 0.0, TUNED: 0.0}


def test_a_sampled_baseline_is_not_compared_with_a_threshold(sixty):
    """A threshold draws nothing: it is another decoding rule."""
    items, scores = sixty
    answers = [*rows("greedy", scores), *rows("more", scores + 2)]
    drawn = Lineup(("greedy", "more"), rules={"greedy": "sampling (temperature 1.0)"}, seeds=3)
    (more,) = evaluate(Pope(), items, answers, ["greedy", "more"], drawn).evidence
    assert (more.rules, more.better_than_baseline) == (None, "yes")
    assert (more.controls, more.better_than_controls, more.verdict) == ((), "not run", "")


def test_better_order_ranks_better(sixty):
    """Greedy's scores say nothing about a third of the questions, the method's do."""
    items, scores = sixty
    blurred = np.where(np.arange(60) % 6 < 2, -3.0, scores)  # a yes and a no of each six score alike
    answers = [*rows("greedy", blurred), *rows("sees", scores + 2)]
    (sees,) = evaluate(Pope(), items, answers, ["greedy", "sees"]).evidence
    assert sees.ranking.own.value == 1
    assert sees.ranking.base.value == pytest.approx(1 - 0.5 / 3)
    assert sees.verdict == "ranks better"
    assert sees.better_than_controls == "yes"


@pytest.mark.slow
def test_no_gain_and_no_scores(sixty):
    items, scores = sixty
    same = [*rows("greedy", scores), *rows("same", scores)]
    (row,) = evaluate(Pope(), items, same, ["greedy", "same"]).evidence
    assert row.verdict == "not shown"  # 2.73 / 62.7: up to 4.4 points are not ruled out by 60 questions
    assert row.over_baseline.bound == pytest.approx(0.0445, abs=1e-3)
    many, each = questions(["yes", "no"] * 120), np.tile(scores, 4)
    (row,) = evaluate(Pope(), many, [*rows("greedy", each), *rows("same", each)], ["greedy", "same"]).evidence
    assert row.verdict == "no gain"
    bare = [replace(each, extra=None) for each in same]
    (row,) = evaluate(Pope(), items, bare, ["greedy", "same"]).evidence
    assert (row.verdict, row.controls, row.better_than_controls) == ("", (), "not run")


def test_shifts_are_fitted_on_the_other_half(sixty):
    """The method says yes to all of the first half and to none of the second: the shifts say the reverse."""
    items, scores = sixty
    first, second = halves(items)
    texts = ["Yes" if n in first else "No" for n in range(60)]
    counts = shifted_counts(Pope(), items, rows("greedy", scores), {"m": rows("m", scores, texts)})["m"][SHIFTED]
    assert [counts[n]["yes"] for n in first] == [0] * len(first)
    assert [counts[n]["yes"] for n in second] == [1] * len(second)


def test_the_words_of_the_verdict():
    """By the differences from the baseline, from equal yes share, and of AUROC; significant below 0.05 after Holm."""
    up, down = Difference(0.1, 0.05, 0.15, 0.001, "", holm=0.01), Difference(-0.1, -0.15, -0.05, 0.001, "", holm=0.01)
    maybe = Difference(0.1, -0.01, 0.2, 0.04, "", holm=0.08)
    row = Evidence("pope", "random", Pope.metrics[0], "m", "greedy", 0.9, 0.8, (), 50, 100, up)
    estimate = Estimate(0.9, 0.8, 1.0, 9.0, 10.0)
    cases = [
        (up, up, up, "ranks better"),
        (maybe, up, up, "ranks better"),  # its threshold takes away what its ranking gives
        (up, up, maybe, "undecided"),
        (up, maybe, up, "only shifts"),
        (up, down, up, "only shifts"),
        (down, up, maybe, "no gain"),
        (down, maybe, maybe, "no gain"),
        (None, maybe, maybe, "undecided"),
        (up, None, up, ""),
        (up, up, None, ""),
    ]
    for over_baseline, shifted, difference, word in cases:
        ranking = Ranking(estimate, estimate, difference, shifted)
        assert replace(row, over_baseline=over_baseline, ranking=ranking).verdict == word
    nothing = replace(row, over_baseline=down, ranking=Ranking(estimate, estimate, up, up), changed=0)
    assert nothing.verdict == "no gain"
    assert row.verdict == ""


def test_the_verdict_is_corrected_for_the_strategies_alone(sixty):
    """Two strategies: the smaller p counts twice. The tick over plain controls counts all four comparisons."""
    items, scores = sixty
    blurred = np.where(np.arange(60) % 6 < 2, -3.0, scores)
    arms = {"greedy": blurred, "sees": scores + 2, "half": np.where(np.arange(60) % 12 < 2, -3.0, scores) + 2}
    answers = [row for name, own in arms.items() for row in rows(name, own)]
    sees, half = evaluate(Pope(), items, answers, list(arms)).evidence
    for one, other in (
        (sees.ranking.shifted, half.ranking.shifted),
        (sees.ranking.difference, half.ranking.difference),
    ):
        assert one.p <= other.p
        assert one.holm == pytest.approx(min(1.0, 2 * one.p))
    assert sees.controls[0].difference.holm > sees.ranking.shifted.holm


def test_all_or_no_yes_is_met_beyond_every_score(sixty):
    """The baseline's scores on the other half may lie outside those that the shift was fitted on."""
    items, scores = sixty
    for text, said in (("Yes", 60), ("No", 0)):
        counts = shifted_counts(Pope(), items, rows("greedy", scores * 9), {"m": rows("m", scores, [text] * 60)})
        assert sum(each["yes"] for each in counts["m"][SHIFTED]) == said
