"""Attention-space contrastive guidance (ACG).

Paper     arXiv:2601.13707, CVPR 2026 Findings; no code is known.
Idea      What would a head have written without the picture? Amplify that part of the difference which is orthogonal
          to it: what the picture adds, not how much the head writes.
Formula   for each head, at the newest row, before the output projection:
          o = softmax(s) v, u = softmax(s without image columns) v, d = o - u
          o' = o + gamma (d - <d, u> u / |u|^2)
Defaults  gamma 2.4 for LLaVA-1.5, 1.4 for Qwen-VL; 0.3 for MiniGPT-4. The authors report that gamma 3 breaks captions:
          tune it. All layers; the authors' fast form edits the first 8 (layers=":8").
Cost      Attention weights of the newest row are computed explicitly beside the plain attention, in the chosen layers.
          No second softmax: o is a sum over columns, u has the direction of the sum over those without image, and d
          differs from the sum over the others by a multiple of u.
Compared  projection: paper does not say whether for each head or over all of a layer; ours for each head
          scores: paper does not say for scores that another method has edited; ours the edited ones
          length of u: paper |u| + 1e-8; ours the same up to rounding
          baseline: the authors' not known to be greedy or sampled; ours what runs beside it
Differs   A head that attends to nothing but the picture has no u, and is not edited. Sums over columns have the
          model's dtype, as head outputs have; what is added is computed from them in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor
from torch.nn.functional import normalize

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import Call, Columns, Op, output_of
from mmhall.options import by_model
from mmhall.strategies import (
    Session,
    Strategy,
    layers_option,
    select_layers,
    twin_generator,
    twin_option,
    why_no_image_columns,
)

_LEAST = 1e-12  # least squared length of what columns without image contribute; less does not determine u


@dataclass(frozen=True)
class ACG(Strategy):
    """Amplify what the picture adds to each head's output.

    Attributes:
        gamma: Strength; 0 changes nothing, below 0 weakens what the picture adds.
        layers: Layers whose heads are edited.
        twin: 0: the strategy; a larger number: the seed of a random twin (the direction of what is added, orthogonal
            to the same output and of the same length; one random vector for each head).
    """

    name: ClassVar[str] = "acg"
    published: ClassVar = {("llava", 32): {"gamma": 2.4, "layers": ":"}}

    gamma: float = by_model(1.4, tries=(-0.5, 0.3, 0.7, 1.4, 2.1, 2.4))
    layers: str = layers_option(":", tries=(":", ":25%", "50%:"))
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose pictures are no columns beside the text's."""
        return why_no_image_columns(adapter, "no head mixes picture and text")

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Amplify at the newest row; without a picture return an empty session."""
        if not has_picture(inputs) or self.gamma == 0:
            return Session()
        layers = select_layers(adapter, self, "layers", self.layers)
        return Session(ops=[_Amplify(layers, adapter.image_mask(inputs["input_ids"]), self.gamma, self.twin)])


class _Amplify(Op):
    """Adds what the picture adds to the newest row's head outputs, as far as it is orthogonal to the rest."""

    first_row = -1
    writes = True  # no weight; but the row, whose weights are needed anyhow, is then not computed by SDPA a second time

    def __init__(self, layers: frozenset[int], image: Tensor, gamma: float, twin: int) -> None:
        self.layers = layers
        self._image, self._gamma, self._twin = Columns(image.float()), gamma, twin
        self._parts: tuple[Tensor, Tensor] | None = None  # image columns of this step, and both parts of the columns
        self._added = torch.empty(0)  # in the current layer
        self._random: dict[int, Tensor] = {}

    def rows(self, call: Call) -> LongTensor:
        return call.newest

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        parts = (probs[:, :, :, None] * self._parts_of(call)).flatten(2, 3)  # (B, H, 2 R, K)
        image, rest = output_of(call, parts).float().unflatten(1, (-1, 2)).unbind(dim=2)
        self._added = self._gamma * orthogonal_part(image, rest, self._twin_of(call, rest) if self._twin else None)

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        if self._added.shape[1] == output.shape[1]:
            return (output + self._added).to(output.dtype)
        return output.index_copy(1, call.newest, (output[:, -1:] + self._added).to(output.dtype))

    def _parts_of(self, call: Call) -> Tensor:
        """Return image columns and all others, (B, 1, 1, 2, K), the same for all layers of a kind in a step."""
        image = self._image(call)
        if self._parts is None or self._parts[0] is not image:
            self._parts = image, torch.stack([image, 1 - image], dim=3)
        return self._parts[1]

    def _twin_of(self, call: Call, rest: Tensor) -> Tensor:
        """Return a random vector for each head, (H, Dv)."""
        if call.layer not in self._random:
            generator = twin_generator(self._twin, f"layer {call.layer}")
            self._random[call.layer] = torch.randn(rest.shape[2:], generator=generator).to(rest.device)
        return self._random[call.layer]


def orthogonal_part(image: Tensor, rest: Tensor, other: Tensor | None = None) -> Tensor:
    """Return the part of d = o - u that is orthogonal to u, (..., D); 0 where u is not determined.

    The head's output o is the sum of what image columns and all others contribute, and u has the direction of the
    latter: so the part of d is that of the former. Values (3, 4) with weight 0.25, and (1, 2) of an image column with
    0.75: u = (3, 4), d = (-1.5, -1.5), and of (0.75, 1.5), as of d, the part (-0.24, 0.18) is orthogonal to u.

    Args:
        image: What image columns contribute to o, (..., D).
        rest: What all other columns contribute, (..., D).
        other: Vectors whose direction is taken instead, (..., D); the length is that of the orthogonal part.
    """
    size = (rest * rest).sum(dim=-1, keepdim=True)

    def orthogonal(vectors: Tensor) -> Tensor:
        share = (vectors * rest).sum(dim=-1, keepdim=True) / size.clamp_min(_LEAST)
        return torch.addcmul(vectors, share, rest, value=-1)

    added = orthogonal(image)
    if other is not None:
        added = normalize(orthogonal(other.expand_as(rest)), dim=-1) * added.norm(dim=-1, keepdim=True)
    return torch.where(size > _LEAST, added, 0.0)
