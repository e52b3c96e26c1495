"""Memory-space visual retracing (MemVR).

Paper     ICML 2025, arXiv:2410.03577; 1zhou-Wang/MemVR.
Idea      When a middle layer is unsure of the next token, show the picture to the next layer's MLP once more: the
          projected image features act as keys and values of a memory.
Formula   u = entropy of the ten likeliest next tokens, after softmax over these ten, / log 10; the tokens are read from
          the states that enter a layer, through the model's final norm and head
          in the first of `layers` with u > gate, once a pass: m' = (1 - ratio) m + ratio c b, b = (w F^T) F
          w the MLP's input, m its output, F the image features as the first layer reads them, c = mean |m| / mean |b|
          all rows of a prompt look, if its last row is unsure; then each new token for itself
Defaults  ratio 0.12, gate 0.75. LLaVA-1.5-7B layers 7 to 16 of 32, which follow the layers 6 to 15 that are asked.
Cost      One more row of the output head for each of `layers`, until one looks; two thin products in that one.
Compared  between the two products: paper an activation; released code none; ours none
          size of F: released code scaled by the means of the MLP's weights, twice; ours not, as it cancels in c
          c: released code one for the whole batch; ours one for each prompt, then one for each token
          pictures: released code the last of a prompt; ours all
          u: released code after the logits processors, of the first prompt; ours before them, for each row
          ratio for captions: released code 0.12, its caption script passes 0.31, which is ignored; ours 0.12
          baseline: paper sampled rows taken from another paper's tables; ours what runs beside it
Differs   F is read where it enters the decoder, in the scale of the model's embeddings. Layers whose pictures are
          reached in another way too (deep features of Qwen3-VL) are shown F alone.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import EVERY, Op, ReadOut, Visit
from mmhall.options import by_model
from mmhall.strategies import (
    MLP_UPDATE,
    Session,
    Strategy,
    layers_option,
    random_like,
    select_layers,
    twin_option,
    why_no_image_columns,
)

_CANDIDATES = 10
_SELF = EVERY - {"cross"}


@dataclass(frozen=True)
class MemVR(Strategy):
    """Show the picture to an MLP again where an inner layer is unsure.

    Attributes:
        ratio: Share of the picture in the MLP's output, in [0, 1]; 0 changes nothing.
        gate: Uncertainty in [0, 1] above which a layer looks again; 1: never.
        layers: Layers that may look again, each if the states that enter it are unsure; the first one does.
        twin: 0: the strategy; a larger number: the seed of a random twin (image features of random direction, with the
            norms of the true ones).
    """

    name: ClassVar[str] = "memvr"
    claims: ClassVar[frozenset[str]] = frozenset({MLP_UPDATE})
    published: ClassVar = {("llava", 32): {"ratio": 0.12, "layers": "7:17"}}

    ratio: float = by_model(0.12, low=0, high=1, tries=(0.06, 0.12, 0.2, 0.28))
    gate: float = by_model(0.75, low=0, high=1, tries=(0.6, 0.75, 0.9))
    layers: str = layers_option("21%:52%")
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models without image tokens, or whose MLP is no module of its own."""
        reason = why_no_image_columns(adapter, "there are no image tokens to look at")
        if reason is None and isinstance(adapter.anatomy.decoder.site(len(adapter.layers) - 1, "mlp"), nn.Linear):
            return "the two matrices of its MLP are parts of the layer itself, so the input of the MLP cannot be read"
        return reason

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Keep the image features, and look at them where a layer is unsure; without a picture an empty session."""
        if not has_picture(inputs) or self.ratio == 0 or self.gate == 1:
            return Session()
        layers = select_layers(adapter, self, "layers", self.layers, _SELF)
        features = _Features(adapter.image_mask(inputs["input_ids"]), self.twin)
        attended = inputs["attention_mask"].bool()
        return Session(ops=[features, _LookAgain(self, layers, features, attended, adapter.read_out)])


class _Features(Op):
    """Keeps the image features of each prompt, (prompts, N, hidden size) float32; shorter ones end in zeros."""

    layers, kinds = frozenset({0}), EVERY

    def __init__(self, image: Tensor, twin: int) -> None:
        self._image, self._twin = image, twin
        self.pictured = image.any(dim=1)
        self.values: Tensor

    def see_states(self, visit: Visit) -> None:
        if not visit.prefill:
            return
        image = self._image.to(visit.device)
        rows = [states[own].float() for states, own in zip(visit.states, image, strict=True)]
        if self._twin:
            rows = [random_like(row, self._twin, "image features") for row in rows]
        self.values = nn.utils.rnn.pad_sequence(rows, batch_first=True)


class _LookAgain(Op):
    """Adds the picture to the MLP's output in the first layer whose input is unsure of the next token."""

    sites, kinds = frozenset({"mlp"}), EVERY

    def __init__(
        self, options: MemVR, layers: frozenset[int], features: _Features, attended: Tensor, read_out: ReadOut
    ) -> None:
        self.layers, self._first, self._options, self._features = layers, min(layers), options, features
        self._attended, self._read_out = attended, read_out
        self._waiting: Tensor  # rows that have not looked in this pass, (B, R) bool
        self._looking: Tensor  # rows that look in this layer, (B, R) bool
        self._looks = Counter(dict.fromkeys(layers, 0))

    def see_states(self, visit: Visit) -> None:
        rows = visit.newest
        if visit.layer == self._first:
            pictured = visit.each(self._features.pictured).to(visit.device)
            self._waiting = pictured[:, None].expand(-1, len(rows))
        self._looking = waiting = self._waiting.to(visit.device)
        if waiting.any():
            unsure = uncertainty(self._read_out(visit.states[:, rows][waiting])) > self._options.gate
            self._looking = waiting.masked_scatter(waiting, unsure)
            self._waiting = waiting & ~self._looking

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        looking = self._looking.to(states.device)[..., None]  # (B, rows, 1), or (B, 1, 1) for all rows of a prompt
        if not looking.any():
            return states
        self._looks[visit.layer] += int(looking.sum())
        rows = visit.each(self._attended).to(states.device) if visit.prefill else None
        features = visit.each(self._features.values).to(states.device)
        edited = look(states.float(), visit.source.float(), features, self._options.ratio, rows)
        return torch.where(looking, edited.to(states.dtype), states)

    def findings(self, depth: int) -> dict[str, Tensor]:
        counts = [float(self._looks.get(layer, math.nan)) for layer in range(depth)]
        return {"second looks": torch.tensor(counts)[:, None]}


def uncertainty(logits: Tensor) -> Tensor:
    """Return the entropy of the ten likeliest tokens as a share of its largest value, (..., V) to (...,) in [0, 1].

    Ten tokens with logits 2, 1, 0, 0, ... have 0.8382, with 4, 1, 0, 0, ... 0.3448.
    """
    top = logits.topk(min(_CANDIDATES, logits.shape[-1]), dim=-1).values.log_softmax(dim=-1)
    return -(top.exp() * top).sum(dim=-1) / math.log(_CANDIDATES)


def look(output: Tensor, source: Tensor, features: Tensor, ratio: float, rows: Tensor | None = None) -> Tensor:
    """Mix the picture into the output of an MLP, (B, Q, hidden size).

    With features (1, 0) and (1, 1), input (2, -1) and output (4, 0), b is (3, 1), and ratio 0.1 gives (3.9, 0.1).

    Args:
        output: Output of the MLP, (B, Q, hidden size).
        source: Input of the MLP, same shape.
        features: Image features, (B, N, hidden size); zeros do not count.
        ratio: Share of the picture.
        rows: Rows over which sizes are averaged, (B, Q) bool; None: each row has its own size.
    """
    picture = source @ features.mT @ features
    sizes = [part.abs().mean(dim=-1, keepdim=True) for part in (output, picture)]
    if rows is not None:
        sizes = [(size * rows[..., None]).sum(dim=1, keepdim=True) for size in sizes]
    size, of_picture = sizes
    return (1 - ratio) * output + ratio * picture * (size / of_picture)
