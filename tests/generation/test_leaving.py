"""Rows that have ended leave their batch, and nobody notices: the others say what they say alone, and cost no more.

A prompt alone is decoded without any end. Ends are then chosen among what was said, so that the answers of the batch
end at very different steps.
"""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

import mmhall
from mmhall.adapters import adapter_for
from mmhall.attention import EVERY, Op, PassCount, count_passes
from mmhall.generation import Settings, StepScores, _run as running
from mmhall.generation._job import Job
from mmhall.strategies import Branch, Session
from tests.decoders.fitted import with_artifacts
from tests.decoders.test_contract import COMPOSED, PLAIN
from tests.generation.reference import QUIET, REQUESTS, built, ours
from tests.jobs import prepared

EMPTY = pytest.mark.filterwarnings("ignore:vdgd. the description")
pytestmark = [QUIET, EMPTY, pytest.mark.usefixtures("clip", "detector")]

LENGTH = 9
QUICK = ("pai", "vcd", "kvsmooth", "vdgd", "debiased-pruning", "causalmm")
WAYS = ({}, {"do_sample": True})
EACH = [
    pytest.param(spec, WAYS[at % 2], marks=() if spec.startswith(QUICK) and spec not in COMPOSED else pytest.mark.slow)
    for at, spec in enumerate(("greedy", *PLAIN))
]


def decoded(adapter, requests, spec, ends, *, first=0, leave=True, session=None, **settings):
    """Tokens, scores by answer, and the passes of a batch; `ends` are the tokens that end an answer."""
    config = adapter.generator.generation_config
    before, config.eos_token_id = config.eos_token_id, ends
    try:
        made = Settings(**{"max_new_tokens": LENGTH, **settings}).resolved(adapter.generator)
        inputs, own = prepared(adapter, adapter.inputs(requests), mmhall.strategy(spec))
        seeds = range(first, first + len(requests))
        keep, count = StepScores("scores", scores=[]), PassCount()
        with count_passes(count):
            job = Job(adapter, inputs, session(inputs) if session else own, made, seeds, spec, keep=keep, leave=leave)
            rows = running.run(job).tolist()
    finally:
        config.eos_token_id = before
    cuts = [next((at + 1 for at, token in enumerate(row) if token in (ends or ())), len(row)) for row in rows]
    scores = [keep.scores_of(row, length) for row, length in enumerate(cuts)]
    return [row[:cut] for row, cut in zip(rows, cuts, strict=True)], scores, count


def spread(answers):
    """One or two tokens at which answers end at as many steps as possible, and not all late."""

    def lengths(ends):
        return [next((at for at, token in enumerate(row) if token in ends), len(row)) for row in answers]

    said = sorted({token for row in answers for token in row})
    pairs = [[token] for token in said] + [list(pair) for pair in combinations(said, 2)]
    return max(pairs, key=lambda ends: (len(set(lengths(ends))), -sum(lengths(ends))))


def check(adapter, spec, *, session=None, copies=None, tolerance=5e-3, **settings):
    """Compare a batch with its prompts alone; return the batch's tokens and ends."""
    alone = [
        decoded(adapter, [request], spec, None, first=at, session=session, **settings)
        for at, request in enumerate(REQUESTS)
    ]
    ends = spread([tokens[0] for tokens, _, _ in alone])
    together, scores, count = decoded(adapter, REQUESTS, spec, ends, session=session, **settings)
    lengths = [len(row) for row in together]
    assert len(set(lengths)) > 2, lengths
    for (tokens, own, _), row, found in zip(alone, together, scores, strict=True):
        assert row == tokens[0][: len(row)]
        torch.testing.assert_close(found, own[0][: len(row)], rtol=tolerance, atol=tolerance)
    if copies is not None:
        assert count.rows == copies * sum(length - 1 for length in lengths)
        assert count.passes in (max(lengths) - 1, copies * (max(lengths) - 1))  # of Mllama, branches step apart
    return together, ends


def rows_of(spec):
    """Rows of each answer: its own, and one for each branch."""
    parts = {part.split("(")[0] for part in spec.split("+")}
    if "vdgd" in parts:
        return None  # it describes first, and what it says meanwhile has ends of its own
    return 3 if "causalmm" in parts else 2 if parts & {"vcd", "vdd", "pai", *DECODED} else 1


DECODED = ("imbalance", "m3id", "sid", "icd", "sig", "lqcd")


@pytest.mark.parametrize(("spec", "way"), EACH, ids=str)
def test_whatever_strategy_the_others_say_what_they_say_alone(spec, way):
    check(with_artifacts(ours("llava")), spec, copies=rows_of(spec), **way)


def test_half_precision():
    """Up to its rounding, as long as the same is said."""
    model, processor = built("llava")
    adapter = adapter_for(model.to(torch.bfloat16), processor)
    ends = spread(decoded(adapter, REQUESTS, "vcd", None)[0])
    left, whole = (decoded(adapter, REQUESTS, "vcd", ends, leave=leave) for leave in (True, False))
    assert left[2].rows < whole[2].rows
    for row, other, scores, wanted in zip(left[0], whole[0], left[1], whole[1], strict=True):
        same = next((at for at, pair in enumerate(zip(row, other, strict=False)) if len(set(pair)) > 1), len(row) - 1)
        for own, its in zip(scores[: same + 1], wanted, strict=False):
            both = own.isfinite() & its.isfinite()
            torch.testing.assert_close(own[both], its[both], rtol=0.1, atol=1.0)


@pytest.mark.parametrize("leave", [True, False])
def test_several_draws_of_a_prompt_do_not_depend_on_which_are_left(leave):
    """Answers to a prompt take turns at one generator: one that has ended still takes its turn."""
    adapter, settings = ours("llava"), {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 12}
    free, _, _ = decoded(adapter, REQUESTS[:3], "vdd", None, **settings)
    ends = spread(free)
    drawn, _, count = decoded(adapter, REQUESTS[:3], "vdd", ends, leave=leave, **settings)
    assert drawn == [row[: len(found)] for row, found in zip(free, drawn, strict=True)]
    lengths = [len(row) for row in drawn]
    assert len(set(lengths)) > 3
    assert count.rows == 2 * (sum(lengths) - 9 if leave else 9 * (max(lengths) - 1))


class Stacking(Op):
    """Stacks the input of the first layer from step to step, which needs all rows in each."""

    kinds, whole = EVERY, True
    layers = frozenset({0})

    def __init__(self):
        self.seen = []

    def see_states(self, visit):
        self.seen.append(visit.states[:, -1])


class Watching:
    """A combination that changes nothing and needs all rows."""

    whole = True

    def __call__(self, step):
        return step.main


@pytest.mark.parametrize(
    "session", [lambda inputs: Session(ops=[Stacking()]), lambda inputs: Session(combine=Watching())]
)
def test_what_needs_all_rows_keeps_them(session):
    adapter = ours("llava")
    free, _, _ = decoded(adapter, REQUESTS, "greedy", None)
    ends = spread(free)
    found, _, count = decoded(adapter, REQUESTS, "greedy", ends, session=session)
    assert found == decoded(adapter, REQUESTS, "greedy", ends)[0]
    assert count.rows == len(REQUESTS) * (max(map(len, found)) - 1)


def test_an_op_of_a_branch_can_need_all_rows():
    adapter = ours("llava")

    def session(inputs):
        branch = Branch(adapter.without_image(inputs), ops=[Stacking()])
        return Session(branches=[branch], combine=lambda step: step.main + 0.5 * (step.main - step.branches[0]))

    ends = spread(decoded(adapter, REQUESTS, "greedy", None, session=session)[0])
    found, _, count = decoded(adapter, REQUESTS, "greedy", ends, session=session)
    assert count.rows == 2 * len(REQUESTS) * (max(map(len, found)) - 1)


def test_a_processor_that_holds_the_prompts_keeps_all_rows(monkeypatch):
    """transformers' penalty for tokens of the prompt holds the ids of every prompt."""
    adapter = ours("llava")
    monkeypatch.setattr(adapter.generator.generation_config, "encoder_repetition_penalty", 1.6)
    free, _, _ = decoded(adapter, REQUESTS, "greedy", None)
    found, _, count = decoded(adapter, REQUESTS, "greedy", spread(free))
    assert found == [row[: len(one)] for row, one in zip(free, found, strict=True)]
    assert count.rows == len(REQUESTS) * (max(map(len, found)) - 1)


DRAWN = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20}


@pytest.mark.parametrize("settings", [{}, DRAWN], ids=["greedy", "drawn"])
def test_penalties_and_cut_offs_go_row_by_row(settings):
    """The penalty leaves out the padding of each prompt, which it holds by row."""
    check(ours("llava"), "vdd", copies=2, repetition_penalty=1.3, **settings)
