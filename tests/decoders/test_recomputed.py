"""The control that recomputes rows: it acts at every step, and its scores are the plain model's."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.attention import Op, _attend as attend
from mmhall.strategies import Session
from tests.decoders.rows import halved, scored
from tests.generation.reference import QUIET, REQUESTS, ours

pytestmark = QUIET

ANSWERS = torch.tensor([[11, 12, 13, 14], [15, 16, 17, 18]])


def session_of(adapter, spec="recomputed", requests=REQUESTS[:2]):
    inputs = adapter.inputs(requests)
    return inputs, mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama"])
def test_its_scores_are_the_plain_models(name):
    adapter = ours(name)
    inputs, session = session_of(adapter)
    plain = scored(adapter, inputs, Session(), ANSWERS)
    torch.testing.assert_close(scored(adapter, inputs, session, ANSWERS), plain, rtol=1e-4, atol=1e-4)


def test_it_computes_the_newest_row_of_every_step_in_its_layers(monkeypatch):
    """Once for the prompt and once for each token of an answer."""
    computed, own = [], attend.output_of
    monkeypatch.setattr(attend, "output_of", lambda call, probs: computed.append(call) or own(call, probs))
    adapter = ours("llava")
    depth = len(adapter.layers)
    for spec, layers in (("recomputed", range(depth)), ("recomputed(layers='1')", [1])):
        computed.clear()
        scored(adapter, *session_of(adapter, spec), ANSWERS)
        assert [call.layer for call in computed] == [*layers] * (1 + ANSWERS.shape[1])
    assert not session_of(adapter, requests=[Request("What?")])[1].ops


def test_it_edits_nothing():
    (op,) = session_of(ours("llava"))[1].ops
    assert op.writes
    edits = ("bias", "edit_scores", "edit_probs", "edit_output", "keep", "edit_states")
    assert all(getattr(type(op), edit) is getattr(Op, edit) for edit in edits)


def test_in_half_precision_rounding_alone_moves_scores():
    adapter = halved()
    inputs, session = session_of(adapter)
    plain = scored(adapter, inputs, Session(), ANSWERS)
    moved = (scored(adapter, inputs, session, ANSWERS) - plain).abs()
    assert 0 < moved[plain > -1e3].max() < 0.5
