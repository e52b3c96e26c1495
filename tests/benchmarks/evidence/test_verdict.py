"""The verdict on simulated runs, whose truth is known: how often it errs, and how often it finds what is there.

Scores are normal around +d/2 for yes questions and -d/2 for no questions, with a part that strategies share. Every run
is evaluated as a stored one is, with fewer bootstrap draws.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest

from mmhall.benchmarks import evaluation
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.evidence.threshold import SCORE
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.rules.yesno import METRICS, score
from mmhall.results.statistics import Resampler
from mmhall.results.store import Row


class Bare(Pope):
    """POPE with one metric, and answers of one word."""

    metrics = METRICS[:1]

    def count(self, item, text):
        return score(item.truth["label"], text.lower())


def shift(rng, side):
    """The method answers as the baseline does with another threshold."""
    scores = side * 0.9 + rng.normal(size=len(side))
    return scores + 2.5, scores


def noise(rng, side):
    """Equal quality: half of the variance is drawn anew, so that many answers turn."""
    shared, own, other = rng.normal(size=(3, len(side)))
    return side * 0.9 + (shared + own) * 0.5**0.5, side * 0.9 + (shared + other) * 0.5**0.5


def crossing(rng, side):
    """Equal AUROC of .92, though the method is right more often at its threshold: .84 against .80.

    The baseline is sure of three questions in five, and guesses the others: 1 - .4 * .4 / 2 = .92, .6 + .4 / 2 = .80.
    Normal scores at a distance of 1.987 have Phi(1.987 / 2 ** .5) = .92 and Phi(1.987 / 2) = .84.
    """
    sure = rng.random(len(side)) < 0.6
    base = np.where(sure, side * 3.0, rng.normal(size=len(side)) * 0.5)
    return base, side * 1.987 / 2 + rng.normal(size=len(side))


def better(rng, side):
    """The method ranks better: AUROC rises from .85 (distance 1.466) to .90 (1.812), accuracy from .77 to .82."""
    shared, own, other = rng.normal(size=(3, len(side)))
    half = 0.5**0.5
    return side * 1.466 / 2 + (shared + own) * half, side * 1.812 / 2 + (shared + other) * half


def verdicts(monkeypatch, truth, pictures, runs):
    """Return how often each verdict is given, with one question about each picture."""
    monkeypatch.setattr(evaluation, "Resampler", partial(Resampler, draws=400))
    side = np.where(np.arange(pictures) % 2 == 0, 1.0, -1.0)
    items = [Item(f"{n}", f"{n}", "?", ("random",), {"label": "yes" if s > 0 else "no"}) for n, s in enumerate(side)]
    given = Counter()
    for seed in range(runs):
        scores = dict(zip(("greedy", "method"), truth(np.random.default_rng(seed), side), strict=True))
        rows = [
            Row("pope", item.id, name, "Yes" if s > 0 else "No", "eos", 1, 1.0, 0, {SCORE: float(s)})
            for name, own in scores.items()
            for item, s in zip(items, own, strict=True)
        ]
        (one,) = evaluation.evaluate(Bare(), items, rows, ["greedy", "method"]).evidence
        given[one.verdict] += 1
        given["> baseline"] += one.better_than_baseline == "yes"
    return given


LONG = (pytest.mark.slow, pytest.mark.long)
LARGER = pytest.param(200, 40, marks=pytest.mark.slow), pytest.param(1000, 20, marks=LONG)


@pytest.mark.slow
@pytest.mark.parametrize(("pictures", "runs"), [(60, 100), *LARGER])
def test_a_threshold_alone_only_shifts(monkeypatch, pictures, runs):
    given = verdicts(monkeypatch, shift, pictures, runs)
    assert given["> baseline"] >= 0.95 * runs
    assert given["only shifts"] >= 0.95 * given["> baseline"]
    assert given["ranks better"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("truth", [noise, crossing])
@pytest.mark.parametrize(("pictures", "runs"), [(60, 100), *LARGER])
def test_equal_ranking_is_rarely_called_better(monkeypatch, truth, pictures, runs):
    given = verdicts(monkeypatch, truth, pictures, runs)
    assert given["ranks better"] <= 0.05 * runs
    if truth is noise:  # it is no gain either, nor a shift
        assert given["ranks better"] + given["only shifts"] <= 0.05 * runs


@pytest.mark.slow
def test_better_ranking_is_found(monkeypatch):
    given = verdicts(monkeypatch, better, 1000, 20)
    assert given["ranks better"] >= 0.8 * 20
