"""States read out inside a pass, parts of layers, and exits through a side stream, against the model's own logits."""

from __future__ import annotations

import pytest
import torch

from mmhall.attention import EVERY, Exit, Op, active
from mmhall.attention._read_out import find_finish
from mmhall.errors import ModelError
from mmhall.generation._settings import Settings
from mmhall.strategies import Session
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours
from tests.jobs import opened

pytestmark = QUIET

CAP = 30.0


class ReadLast(Op):
    """Reads the output of the last layer out, and notes how often it is called itself."""

    sites, kinds = frozenset({"out"}), EVERY

    def __init__(self, adapter, norm):
        self.layers, self._adapter, self._norm = frozenset({len(adapter.layers) - 1}), adapter, norm
        self.logits, self.calls = torch.empty(0), 0

    def edit_states(self, visit, states):
        self.calls += 1
        given = states if self._norm else self._adapter.anatomy.final_norm(states)
        self.logits = self._adapter.read_out(given[:, -1], norm=self._norm)
        return states


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("llava", "gemma4") else pytest.mark.slow) for name in FAMILIES]
)
def test_the_last_layer_read_out_is_what_the_model_says(name):
    adapter = ours(name)
    batch = adapter.inputs(REQUESTS[:2])
    for norm in (True, False):
        op = ReadLast(adapter, norm)
        with torch.no_grad(), active(adapter.plan([op])):
            logits = adapter.model(**batch).logits[:, -1]
        torch.testing.assert_close(op.logits, logits, rtol=1e-5, atol=1e-4)
        assert op.calls == 1


def test_what_a_model_does_to_its_head_is_found():
    """A cap is told from nothing by its size, also where it was written down and is not applied."""
    headed = torch.randn(4, 1, 50, generator=torch.Generator().manual_seed(0)) * 5
    capped = CAP * torch.tanh(headed / CAP)
    for logits, cap in ((headed, None), (headed, CAP), (headed * 0.0625, None), (headed * 0.25, CAP), (capped, CAP)):
        torch.testing.assert_close(find_finish(headed, logits, cap)(headed), logits)
        torch.testing.assert_close(find_finish(headed.half(), logits.half(), cap)(headed), logits, rtol=2e-3, atol=2e-2)
    for logits in (capped, headed.masked_fill(headed > 4, -1e9), headed + 1):
        with pytest.raises(ModelError, match="neither a scale nor a soft cap"):
            find_finish(headed, logits, None)


def test_an_exit_reads_what_its_function_makes_of_the_states():
    """Of the main rows and the newest token alone; ops do not see the modules that it runs."""
    adapter = ours("llava")
    batch, shapes, op = adapter.inputs(REQUESTS[:2]), [], ReadLast(adapter, True)

    def through(states):
        shapes.append(tuple(states.shape))
        return adapter.layers[-1](states, position_embeddings=adapter.decoder.rotary_emb(states, torch.tensor([[0]])))

    plain, made = Exit(2), Exit(2, through=through)
    session = Session(ops=[op], exits=[plain, made], combine=lambda step: step.main)
    with torch.inference_mode():
        _, rows = opened(adapter, batch, session, Settings(max_new_tokens=4).resolved(adapter.generator))
        rows.step(rows.scores().argmax(-1))
        exits = rows.exits
    assert shapes == [(2, 1, 64)] * 2
    assert op.calls == 2
    torch.testing.assert_close(exits[plain], rows.logits[0].log_softmax(-1))
    assert (exits[made] - exits[plain]).abs().max() > 0.1


def test_parts_of_a_layer_are_those_that_it_runs():
    adapter = ours("llava")
    parts = adapter.layer_parts(1)
    assert adapter.layer_parts(1) is parts
    layer = adapter.layers[1]
    assert (parts.attention_norm, parts.projection) == (layer.input_layernorm, layer.self_attn.o_proj)
    assert (parts.mlp_norm, parts.mlp) == (layer.post_attention_layernorm, layer.mlp)


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("qwen3_5", 0, "its attention"),  # it is recurrent
        ("qwen3_5", 3, "the output projection of the heads"),  # a gate stands before it
        ("gemma3", 1, "its norm before the MLP and its sums"),
        ("blip_2", 1, "no norm before attention"),
    ],
)
def test_layers_that_compute_something_else_are_refused(name, layer, reason):
    with pytest.raises(ModelError, match=reason):
        ours(name).layer_parts(layer)
