"""The last prompt token read twice: what the first reading left behind is gone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import mmhall
from mmhall.attention import Op
from mmhall.generation._settings import Settings
from mmhall.strategies import Session
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, in_turn, ours
from tests.jobs import decode

pytestmark = QUIET


class Note(Op):
    """Notes each pass of one layer, and what its newest row sees."""

    def __init__(self, layer, kinds):
        self.layers, self.kinds = frozenset({layer}), kinds
        self.noted, self.seen = [], []

    def rows(self, call):
        return call.newest

    def see(self, call, rows, probs):
        self.noted.append((call.step, call.start, call.query.shape[2], call.prefill))
        self.seen.append(probs)


def decoded(adapter, inputs, session, **options):
    config = Settings(max_new_tokens=5, **options).resolved(adapter.generator)
    with torch.inference_mode():
        return decode(adapter, inputs, session, config, [0] * len(inputs["input_ids"]))


@pytest.mark.parametrize(("family", "options"), in_turn(FAMILIES, ({}, {"num_beams": 3})), ids=str)
def test_reading_twice_changes_nothing_by_itself(family, options):
    """Padded batches, sliding windows shorter than the prompt, pictures across, with a branch beside."""
    adapter = ours(family)
    inputs = adapter.inputs(REQUESTS[:2])
    for spec in ("vdd", "vhr"):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs)
        once = decoded(adapter, inputs, session, **options)
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs)
        twice = decoded(adapter, inputs, dataclasses.replace(session, reread=True), **options)
        assert once.tolist() == twice.tolist(), spec


@pytest.mark.parametrize("family", ["paligemma", "qwen3_5"])
def test_a_prompt_that_looks_ahead_or_recurs_is_read_again_as_a_whole(family):
    adapter = ours(family)
    inputs = adapter.inputs(REQUESTS[:2])
    length, note = inputs["input_ids"].shape[1], Note(len(adapter.layers) - 1, adapter.image_kinds)
    decoded(adapter, inputs, Session(ops=[note], reread=True))
    assert note.noted[:2] == [(0, 0, length, True), (0, 0, length, True)]
    assert note.noted[2:] == [(step, length + step - 1, 1, False) for step in range(1, len(note.noted) - 1)]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llama4"])
def test_ops_see_the_second_reading_as_the_first_step(family):
    adapter = ours(family)
    inputs = adapter.inputs(REQUESTS[:2])
    length, notes = inputs["input_ids"].shape[1], [Note(0, adapter.image_kinds) for _ in range(2)]
    for again, note in zip((False, True), notes, strict=True):
        decoded(adapter, inputs, Session(ops=[note], reread=again))
    once, twice = notes
    assert twice.noted[:3] == [(0, 0, length, True), (0, length - 1, 1, False), (1, length, 1, False)]
    assert [(step, start) for step, start, *_ in twice.noted[1:]] == [
        (step, s or length - 1) for step, s, *_ in once.noted
    ]
    for mine, theirs in zip(twice.seen[1:], once.seen, strict=True):
        width = min(mine.shape[-1], theirs.shape[-1])
        torch.testing.assert_close(mine[..., -width:], theirs[..., -width:], rtol=0, atol=1e-5)
