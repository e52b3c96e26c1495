"""Dropped tokens that leave no gap: the tokens after them get the positions of a shorter prompt."""

from __future__ import annotations

import pytest
import torch

from mmhall.attention import Drop, Op, active
from mmhall.errors import CompositionError, ModelError
from mmhall.strategies import Branch, Session
from tests.attention.test_dropping import BATCH, bound, close, settings, some, stepped, tokens
from tests.generation.reference import QUIET
from tests.jobs import decode

pytestmark = QUIET


class Embeddings(Op):
    """Keeps what enters the first layer."""

    layers = frozenset({0})

    def see_states(self, visit):
        self.states = visit.states.clone()


@torch.inference_mode()
def test_without_gaps_a_prompt_is_read_as_a_shorter_one():
    """Each is written out without its dropped tokens, and given to the decoder with its answer, without a cache."""
    adapter = bound("llava")
    inputs, steps = adapter.inputs(BATCH), 4
    dropped, free = some(adapter, inputs), adapter.without_image(inputs)
    drop = Drop(0, dropped, contiguous=True)
    session = Session([drop], [Branch(free)], lambda step: step.main)
    got, _ = stepped(adapter, inputs, session, steps)
    answers = torch.stack([tokens(3, step) for step in range(steps)], dim=1)
    gaps, _ = stepped(adapter, inputs, Session([Drop(0, dropped)], [Branch(free)], lambda step: step.main), steps)
    assert (got[:, 0] - gaps[:, 0]).abs().max() > 0.01
    close(got[:, 1], gaps[:, 1])
    for row in range(len(BATCH)):
        see = Embeddings()
        with active(adapter.plan([see])):
            adapter.model(**adapter.append_answer(inputs, answers))
        real = torch.nn.functional.pad(inputs["attention_mask"].bool() & ~dropped, (0, steps), value=True)[row]
        short = see.states[row : row + 1, real]
        states = adapter.decoder(inputs_embeds=short, use_cache=False).last_hidden_state[0, -1 - steps :]
        close(got[:, 0, row].log_softmax(-1), adapter.model.get_output_embeddings()(states).log_softmax(-1))
    single = adapter.inputs(BATCH[:1])
    own = Session([Drop(0, dropped[:1, -single["input_ids"].shape[1] :], contiguous=True)])
    config = settings(adapter, num_beams=2, max_new_tokens=3)
    assert torch.equal(decode(adapter, inputs, Session([drop]), config)[:1], decode(adapter, single, own, config))


def test_gaps_that_cannot_be_closed_are_refused():
    dropped = torch.tensor([[False, True, False]])
    with pytest.raises(CompositionError, match="from layer 0 on, not from layer 1"):
        Drop(1, dropped, contiguous=True)
    adapter = bound("qwen2_5_vl")
    inputs = adapter.inputs(BATCH[:1])
    with pytest.raises(ModelError, match="are not a line"):
        stepped(adapter, inputs, Session([Drop(0, some(adapter, inputs), contiguous=True)]), 0)
    with pytest.raises(ModelError, match="it has no rotary embedding"):
        bound("blip_2").plan([Drop(0, dropped, contiguous=True)])
    with pytest.raises(ModelError, match="the window of layer 0 counts them"):
        bound("gemma3").plan([Drop(0, dropped, contiguous=True)])
