"""The effect of single heads on the prediction of one token of a given answer.

The prompt and the answer before the token are read once. The last token before it is then read again for each layer, in
as many rows as the layer has heads: the rows differ in one head each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmhall._transformers.settings import minimal_settings
from mmhall.adapters import Adapter, Inputs
from mmhall.attention import SELF_ATTENTION, Call, Exit, Frame, Op, Visit, follow_frames
from mmhall.generation import DecodeState, plan_batch, prefill


class _ByHead(Op):
    """Changes one head of one layer in each row: head i in row i, none in a further row.

    Attributes:
        layer: The layer; None: nothing is changed.
    """

    layer: int | None = None

    def __init__(self, heads: int) -> None:
        self._own = torch.eye(heads + 1, heads, dtype=torch.bool)[:, None, :, None]  # (rows, 1, heads, 1)


class _WithoutHead(_ByHead):
    """Sets one head's output to 0 in each row."""

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        return output.masked_fill(self._own.to(output.device), 0.0) if call.layer == self.layer else output


class _HeadAlone(_ByHead):
    """Lets one head of a layer write in each row, and neither the others nor the MLP."""

    sites = frozenset({"mlp"})

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        return output.masked_fill(~self._own.to(output.device), 0.0) if call.layer == self.layer else output

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        return torch.zeros_like(states) if visit.layer == self.layer else states


def head_influence(adapter: Adapter, inputs: Inputs, ids: Sequence[int]) -> Tensor:
    """Return by how much each head raises the probability of a token, (layers, heads) float32.

    It is the probability minus that without the head's output at the position that predicts the token; 0 in layers
    without self-attention.

    Args:
        adapter: The model.
        inputs: One prompt.
        ids: The answer up to this token, two tokens or more.
    """
    influence = torch.zeros(len(adapter.layers), adapter.heads)
    for layer, state in _read_by_layer(adapter, inputs, ids, _WithoutHead(adapter.heads)):
        probs = state.logits.softmax(dim=-1)[:, ids[-1]]
        influence[layer] = (probs[-1] - probs[:-1]).cpu()
    return influence


def head_logit_gains(adapter: Adapter, inputs: Inputs, ids: Sequence[int]) -> Tensor:
    """Return by how much each head alone raises a token's log-probability, (layers, heads) float32.

    It is the log-probability of the states that enter the layer plus what the head writes, minus that of the states
    alone, both by the model's head without its final norm; 0 in layers without self-attention. Arguments as in
    `head_influence`.
    """
    gains = torch.zeros(len(adapter.layers), adapter.heads)
    for layer, state in _read_by_layer(adapter, inputs, ids, _HeadAlone(adapter.heads), exits=True):
        (logits,) = state.groups[0].early.values()
        level = logits.log_softmax(dim=-1)[:, ids[-1]]
        gains[layer] = (level[:-1] - level[-1]).cpu()
    return gains


def _read_by_layer(
    adapter: Adapter, inputs: Inputs, ids: Sequence[int], op: _ByHead, *, exits: bool = False
) -> Iterator[tuple[int, DecodeState]]:
    """Yield each layer with the state after a pass in which its heads are changed, one a row.

    Args:
        adapter: The model.
        inputs: One prompt.
        ids: The answer up to the token that is predicted.
        op: Changes the heads.
        exits: Whether to read the logits of the layer's output, without the final norm.
    """
    begun = torch.tensor([list(ids[:-2])], dtype=torch.long, device=inputs["input_ids"].device)
    planned = plan_batch(adapter, adapter.append_answer(inputs, begun), [op], minimal_settings(adapter.generator, 1))
    with follow_frames(planned.frame):
        whole = prefill(planned)
    rows = begun.new_zeros(adapter.heads + 1)
    for layer, kind in enumerate(adapter.kinds):
        if kind not in SELF_ATTENTION:
            continue
        op.layer = layer
        read = adapter.exits([Exit(layer, norm=False)]) if exits else None
        state = whole.taken(whole.groups[0], rows)
        state.groups[0].exits = read
        with follow_frames(Frame(state.groups[0].blocks, owners=rows)):
            state.read(begun.new_full((len(rows), 1), ids[-2]))
        yield layer, state
