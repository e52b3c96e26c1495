"""Edits of what enters a layer, the site "in"."""

from __future__ import annotations

import pytest
import torch

from mmhall.attention import EVERY, Op, active
from mmhall.errors import CompositionError
from tests.generation.reference import QUIET, REQUESTS, ours

pytestmark = QUIET


class Scale(Op):
    """Halves the states at a site of one layer."""

    kinds = EVERY

    def __init__(self, layer, site):
        self.layers, self.sites = frozenset({layer}), frozenset({site})

    def edit_states(self, visit, states):
        return states / 2


class Read(Op):
    """Keeps what enters the first two layers."""

    layers, kinds = frozenset({0, 1}), EVERY

    def __init__(self):
        self.states = {}

    def see_states(self, visit):
        self.states[visit.layer] = visit.states.clone()


def logits(adapter, *ops):
    inputs = adapter.inputs(REQUESTS[:1])
    with torch.inference_mode(), active(adapter.plan(ops, inputs)):
        return adapter.model(**inputs).logits


@pytest.mark.parametrize(
    "name", ["llava", *(pytest.param(one, marks=pytest.mark.slow) for one in ("qwen3_5", "gemma3", "mllama"))]
)
def test_the_input_of_a_layer_is_the_output_of_the_one_before(name):
    adapter = ours(name)
    edited = logits(adapter, Scale(1, "in"))
    torch.testing.assert_close(edited, logits(adapter, Scale(0, "out")), rtol=0, atol=0)
    assert not torch.equal(edited, logits(adapter))


def test_ops_that_read_what_enters_a_layer_see_it_edited():
    """Whichever of them is named first."""
    adapter, plain = ours("llava"), Read()
    logits(adapter, plain)
    for order in (slice(None), slice(None, None, -1)):
        reader = Read()
        logits(adapter, *[Scale(0, "in"), reader][order])
        assert torch.equal(reader.states[0], plain.states[0] / 2)
        assert not torch.equal(reader.states[1], plain.states[1])


def test_two_edits_of_one_input_are_refused():
    adapter = ours("llava")
    with pytest.raises(CompositionError, match="two strategies edit the states at 'in' of layer 0"):
        adapter.plan([Scale(0, "in"), Scale(0, "in")])
