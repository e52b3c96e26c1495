"""Dropped tokens beside outputs of layers, exits, candidate tokens, reread tokens and answers read in one pass."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.attention import Exit, active
from mmhall.strategies import Session
from tests.attention.test_dropping import (
    BATCH,
    VARIED,
    Scale,
    bound,
    close,
    settings,
    stepped,
    tokens,
    ways,
)
from tests.generation.reference import QUIET
from tests.jobs import decode, opened

pytestmark = QUIET


def test_ops_at_the_output_of_a_layer_find_all_rows_at_their_positions():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    at = inputs["input_ids"].shape[1] - 4
    got, wanted = (stepped(adapter, inputs, Session([Scale(1, at), op]))[0] for op in ways("llava", inputs, 1))
    close(got, wanted)
    assert (got - stepped(adapter, inputs, Session([ways("llava", inputs, 1)[0]]))[0]).abs().max() > 0.01


def test_exits_are_read_where_they_are():
    """The newest token's, and that of positions of the prompt which are kept."""
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    length = inputs["input_ids"].shape[1]
    found = []
    for op in ways("llava", inputs, 1):
        exits, seen = [Exit(1), Exit(1, positions=torch.tensor([[length - 6, length - 3]] * 3))], []

        def combine(step, exits=exits, seen=seen):
            seen.extend(step.exits[one] for one in exits if one in step.exits)
            return step.main

        decode(adapter, inputs, Session([op], exits=exits, combine=combine), settings(adapter))
        found.append(seen)
    assert [part.shape for part in found[0]][:2] == [(3, found[0][0].shape[-1]), (3, 2, found[0][0].shape[-1])]
    for got, wanted in zip(*found, strict=True):
        close(got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIED)
@torch.inference_mode()
def test_siblings_are_tried_and_kept_as_where_columns_are_masked(name):
    """Beside a picture-free branch; kept rows change places and repeat, all siblings may be dropped."""
    adapter = bound(name)
    inputs = adapter.inputs(BATCH[:2])
    vdd = mmhall.strategy("vdd").fitted(adapter).prepare(adapter, inputs)
    found = []
    for op in ways(name, inputs):
        session = Session([op], vdd.branches, vdd.combine, search=lambda decoding: None)
        _, rows = opened(adapter, inputs, session, settings(adapter))
        logits = []
        for step in range(4):
            tried = torch.stack([tokens(2, step), tokens(2, step + 20), tokens(2, step + 9)], dim=1)
            rows.split(tried)
            logits += rows.logits
            parents, candidates = torch.tensor([1, 0 if step else 1]), torch.tensor([2, 1])
            rows.keep(parents, None if step == 2 else candidates)
            if step == 2:
                rows.step(tried[parents, candidates])
        other = rows.taken(torch.tensor([1, 0, 1]))
        other.reread(torch.stack([tokens(3, step) for step in range(3)], dim=1), other.memory)
        rows.step(tokens(2, 7))
        found.append([*logits, *other.logits, *rows.logits])
    for got, wanted in zip(*found, strict=True):
        close(got.log_softmax(-1), wanted.log_softmax(-1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "qwen3_5", "paligemma"])
def test_prompts_are_reread(name):
    adapter = bound(name)
    inputs = adapter.inputs(BATCH)
    got, wanted = (stepped(adapter, inputs, Session([op], reread=True))[0] for op in ways(name, inputs))
    close(got, wanted)


def test_a_prompt_with_its_answer_is_read_in_one_pass():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    drop, mask = ways("llava", inputs)
    longer = adapter.append_answer(inputs, torch.stack([tokens(3, step) for step in range(4)], dim=1))
    with torch.inference_mode():
        found = []
        for op in (drop, mask):
            with active(adapter.plan([op])):
                found.append(adapter.model(**longer, use_cache=False).logits[:, -5:])
    close(*found)
