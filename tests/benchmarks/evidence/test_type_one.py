"""How often the first two ticks are given to methods that do nothing of use, in simulated runs through `evaluate`.

Each run has a baseline, two methods with two twins each, and nothing but chance between them; a run errs if any of its
methods gets the tick. More methods would be corrected in the same way; more twins make the second tick rarer. Of 400
runs of 60, 200 and 1000 pictures, 3, 6 and 6 erred in the first tick, and 9, 11 and 15 in the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import pytest

from mmhall.benchmarks import evaluation
from mmhall.benchmarks.base import Benchmark, Item, Material, Metric
from mmhall.results.statistics import Resampler
from mmhall.results.store import Row

LONG = (pytest.mark.slow, pytest.mark.long)
METHODS, TWINS, RUNS = 2, 2, 100
MOST = 11  # of 100 runs, at a rate of 5 %: more have a probability below 1 %
QUESTIONS = {60: 4, 200: 2, 1000: 1}  # of each picture, by their number
ARMS = ("greedy", *(f"m{n}" for n in range(METHODS)))
STRATEGIES = (*ARMS, *(f"m{n}(twin={seed})" for n in range(METHODS) for seed in range(1, TWINS + 1)))


@dataclass(frozen=True)
class Right(Benchmark):
    """Answers that are right where they say so.

    Attributes:
        rule: Of no use.
        max_new_tokens: Of no use.
    """

    name: ClassVar[str] = "right"
    metrics: ClassVar = (Metric("accuracy", {"right": 1}, {"n": 1}, "higher", flag="right"),)
    groups: ClassVar = ("all",)

    rule: str = "right"
    max_new_tokens: int = 1

    def material(self, source):
        return Material((), {})

    def count(self, item, text):
        return {"n": 1, "right": float(text == "right")}

    def mark(self, item, text):
        return ()


@cache
def resampler(clusters):
    """One set of draws for all runs of a size."""
    return Resampler(clusters, draws=999)


def simulated(pictures, rng, gain=0.0):
    """Answers of pictures that are harder or easier; each method changes one answer in six, at random."""
    each = QUESTIONS[pictures]
    items = [Item(f"{p}/{q}", f"{p:04}", "?", ("all",)) for p in range(pictures) for q in range(each)]
    hard = np.repeat(rng.beta(8, 2, pictures), each)
    base = rng.random(len(items)) < hard
    rows = []
    for strategy in STRATEGIES:
        own = np.where(rng.random(len(items)) < (strategy != "greedy") / 6, rng.random(len(items)) < hard, base)
        if strategy == "m0":
            own |= rng.random(len(items)) < gain
        rows += [
            Row("right", item.id, strategy, "right" if right else "wrong", "eos", 1, 1.0, 0)
            for item, right in zip(items, own, strict=True)
        ]
    return items, rows


def ticks(pictures, runs, monkeypatch, gain=0.0):
    """Of each run, the methods that got each tick."""
    monkeypatch.setattr(evaluation, "Resampler", lambda clusters: resampler(tuple(clusters)))
    rng = np.random.default_rng(pictures)
    found: Mapping[str, list[set[str]]] = {"better_than_baseline": [], "better_than_twins": []}
    for _ in range(runs):
        told = evaluation.evaluate(Right(), *simulated(pictures, rng, gain), STRATEGIES).evidence
        for tick, named in found.items():
            named.append({row.strategy for row in told if getattr(row, tick) == "yes"})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [60, *(pytest.param(n, marks=LONG) for n in (200, 1000))])
def test_chance_earns_a_tick_no_more_often_than_five_in_a_hundred(pictures, monkeypatch):
    for tick, named in ticks(pictures, RUNS, monkeypatch).items():
        assert sum(map(bool, named)) <= MOST, tick


@pytest.mark.slow
def test_a_real_gain_earns_both_ticks(monkeypatch):
    """Two fifths of the wrong answers put right, 8 points: m0 has both ticks in most of 200 pictures, m1 in few."""
    for tick, named in ticks(200, 20, monkeypatch, gain=0.4).items():
        assert sum("m0" in own for own in named) >= 16, tick
        assert sum("m1" in own for own in named) <= 2, tick
