"""How often the frontier's tick is given: simulated captions through the code of the evidence.

A picture has eight objects, and is easy or hard. Its captions are sentences with one mention each, of which late ones
are wrong more often; a right one names the next object. Methods that only say less, or say the same again, must get the
tick in at most 5 % of the runs; one with a quarter fewer wrong mentions at the same recall in at least 80 % of those
with 1 000 pictures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from mmhall.benchmarks.base import Benchmark, Item, Metric
from mmhall.benchmarks.evidence import frontier, lineup_of
from mmhall.benchmarks.evidence.mentions import STORED
from mmhall.benchmarks.evidence.ticks import is_gain
from mmhall.benchmarks.rules.length import cut, drop_sentences
from mmhall.results.store import Row

LONG = (pytest.mark.slow, pytest.mark.long)
OBJECTS = 8
MENTION = re.compile(r"[RW]\d+")  # right and wrong


@dataclass(frozen=True)
class Simulated(Benchmark):
    """Reads simulated captions."""

    name = "simulated"
    groups = ("captions",)
    trades = "recall"
    reads = ""
    metrics = (
        Metric("CHAIR_i", {"absent": 1}, {"named": 1}, "lower"),
        Metric("recall", {"found": 1}, {"present": 1}, "higher"),
    )

    rule: str = ""
    max_new_tokens: int = 1

    def material(self, source):
        raise NotImplementedError

    def mark(self, item, text):
        return [(m.start(), m.end(), m[0][0] == "R") for m in MENTION.finditer(text)]

    def count(self, item, text):
        named = MENTION.findall(text)
        right = [name for name in named if name[0] == "R"]
        return {
            "named": len(named),
            "absent": len(named) - len(right),
            "found": len(set(right)),
            "present": OBJECTS,
        }


def caption(rng, hard, mentions):
    order, right, sentences = rng.permutation(OBJECTS), 0, []
    for position in range(mentions):
        if rng.random() < min(0.9, (0.04 + 0.05 * position) * hard):
            name = f"W{rng.integers(20)}"
        else:
            name, right = f"R{order[right % OBJECTS]}", right + 1
        sentences.append(f"{name} is in the picture {'here ' * rng.integers(4)}now.")
    return " ".join(sentences)


def less_wrong(rng, text):
    """A quarter of the wrong mentions becomes a repetition of a right one."""
    right = next((name for name in MENTION.findall(text) if name[0] == "R"), "W0")
    return re.sub(r"W\d+", lambda wrong: right if rng.random() < 0.25 else wrong[0], text)


def certainties(rng, text):
    found = [(m, rng.normal(0 if m[0][0] == "R" else -1.5)) for m in MENTION.finditer(text)]
    return {STORED: [[m.start(), m.end(), logprob, logprob + 1] for m, logprob in found]}


def unsure_left_out(caption):
    text, known = caption
    for start, end, logprob, _ in reversed(known[STORED]):
        text = text if logprob >= -1.2 else f"{text[:start]}…{text[end:]}"
    return text


NOTHING_GAINED = ("cut", "drop", "mix", "shorter", "again", "unsure")
CERTAIN = ("unsure",)  # methods of runs that have stored how sure the model is


def write(rng, method, hard, lengths, base, known):
    if method == "cut":  # to a number of words drawn for each picture
        return [cut(text, int(words)) for text, words in zip(base, rng.integers(10, 60, len(base)), strict=True)]
    if method == "drop":
        return [drop_sentences(text, 1) for text in base]
    if method == "mix":
        return [drop_sentences(text, 2) if rng.random() < 0.5 else text for text in base]
    if method == "unsure":
        return list(map(unsure_left_out, zip(base, known, strict=True)))
    fewer = int(method == "shorter")
    fresh = [caption(rng, *one) for one in zip(hard, np.maximum(1, lengths - fewer), strict=True)]
    return [less_wrong(rng, text) for text in fresh] if method == "better" else fresh


def has_tick(method, pictures, seed):
    rng = np.random.default_rng(seed)
    hard, lengths = rng.gamma(2, 0.5, pictures), rng.integers(3, 9, pictures)
    base = [caption(rng, *one) for one in zip(hard, lengths, strict=True)]
    known = [certainties(rng, text) for text in base]
    texts = {"greedy": base, method: write(rng, method, hard, lengths, base, known)}
    items = [Item(f"{seed}-{n}", f"{seed}-{n}", "?", ("captions",)) for n in range(pictures)]
    benchmark = Simulated()
    rows = {
        name: [
            Row("simulated", item.id, name, text, "eos", 9, 1.0, 0, extra if method in CERTAIN else None)
            for item, text, extra in zip(items, own, known, strict=True)
        ]
        for name, own in texts.items()
    }
    counts = {name: benchmark.counts(items, own) for name, own in rows.items()}
    found = frontier.find_frontier(benchmark, items, rows, counts, lineup_of(list(texts)))
    return is_gain(benchmark.metrics[0], found.controls[method][0].difference)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pictures", "runs"),
    [(60, 24), pytest.param(200, 60, marks=LONG), pytest.param(1000, 40, marks=LONG)],
)
def test_saying_less_gets_no_tick(monkeypatch, pictures, runs):
    monkeypatch.setattr(frontier, "DRAWS", 500)
    methods = [NOTHING_GAINED[seed % len(NOTHING_GAINED)] for seed in range(runs)]
    ticks = [method for seed, method in enumerate(methods) if has_tick(method, pictures, seed)]
    assert len(ticks) <= 0.05 * runs, ticks


@pytest.mark.slow
@pytest.mark.parametrize("runs", [5, pytest.param(20, marks=LONG)])
def test_fewer_errors_at_the_same_recall_get_a_tick(monkeypatch, runs):
    monkeypatch.setattr(frontier, "DRAWS", 500)
    assert sum(has_tick("better", 1000, seed) for seed in range(runs)) >= 0.8 * runs
