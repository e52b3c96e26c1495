"""Visual steering with token-logit augmentation (VISTA).

Paper     Li et al., ICML 2025, arXiv:2502.03628; LzVv123456/VISTA.
Idea      What the picture adds to the states fades while an answer grows: push the output of every MLP along "with
          picture minus without", and mix the predictions of late inner layers into the last one's.
Formula   v_l = h_l(prompt with picture) - h_l(prompt without), h_l the output of layer l at the last position
          m' = |m| N(N(m) + strength (1 + max(0, cos(m, -v_l))) N(v_l)), m the output of the layer's MLP, N(x) = x / |x|
          s = (1 - sla_alpha) z + sla_alpha mean over sla_layers of the head applied to h_l, without the final norm
Defaults  strength 0.1, sla_alpha 0.3, all layers steered, layers 25 to 30 of 32 mixed. The scripts for LLaVA-1.5 use
          strength 0.17 for captions and 0.01 for yes/no questions; the author recommends 0.1 to 0.15 for captions.
Cost      1 row per token; two more prefills, one of them short. Mixed layers go through the head with the last one's
          states, 6 more rows of its product in a model of 32 layers.
Compared  what is edited: paper, the hidden states; released code and ours, the MLP's output, whose length stays.
          direction: released code, a principal component of one sample, to which it adds 1 in one coordinate of the
          first layer, as the decomposition of zeros gives; ours, the plain difference.
          batches: released code, one direction for all rows; ours, one for each row.
          dtype: released code, float16 whatever the model's; ours, float32, cast back.
          baseline: greedy, beams and nucleus sampling, each without a plausibility cut-off.
Differs   Prompts without pictures keep all else of the template. They are shorter, so that a part of v_l is due to the
          position. Cross-attention layers, which such prompts do not pass, add nothing there. Where the last layer is
          mixed, it passes the final norm, as in the released code; where it alone is, as by default in models of up to
          9 layers, the mixing would change nothing, and is left out. sla_alpha=0 leaves out the mixing, gate=False the
          cosine ("simple mode" in the released code).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.analysis import read_prompts
from mmhall.attention import EVERY, Exit
from mmhall.options import by_model, option
from mmhall.strategies import (
    CONTRAST,
    MLP_UPDATE,
    ReadOutputs,
    Session,
    Step,
    Strategy,
    TurnUpdates,
    layers_option,
    random_like,
    rows_option,
    select_layers,
    twin_option,
)

_ROUNDING = 1e-5  # a difference below this share of a state is rounding, whose direction means nothing


@dataclass(frozen=True)
class VISTA(Strategy):
    """Steer what the MLPs add towards what the picture adds, and mix inner layers into the prediction.

    Attributes:
        strength: Strength of the steering; 0: none; below 0: away from the picture.
        sla_alpha: Weight of the inner layers' prediction, in [0, 1]; 0: none.
        gate: Whether states that point away from the direction are turned more.
        rows: Positions that are steered: "all", or "answer": the last of the prompt and every later one.
        layers: Layers that are steered.
        sla_layers: Layers whose predictions are mixed in.
        twin: 0: the strategy; a larger number: the seed of a random twin (random directions of the same lengths). With
            strength 0 there is no direction, and the twin is the strategy itself.
    """

    name: ClassVar[str] = "vista"
    published: ClassVar = {("llava", 32): {"strength": 0.17, "sla_layers": "25:31"}}
    ways_out: ClassVar = {CONTRAST: "vista(sla_alpha=0), which mixes no layers"}

    strength: float = by_model(0.1, tries=(0.01, 0.05, 0.1, 0.17))
    sla_alpha: float = option(0.3, low=0, high=1)
    gate: bool = option(True)
    rows: str = rows_option()
    layers: str = layers_option(":")
    sla_layers: str = layers_option("78%:95%")
    twin: int = twin_option()

    @property
    def claims(self) -> frozenset[str]:  # type: ignore[override]
        """The update of the MLP, and what combines distributions unless `sla_alpha` is 0."""
        return frozenset({MLP_UPDATE} if self.sla_alpha == 0 else {MLP_UPDATE, CONTRAST})

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Read the prompts with and without their pictures, then steer; without a picture return an empty session."""
        if not has_picture(inputs) or self.strength == self.sla_alpha == 0:
            return Session()
        layers = select_layers(adapter, self, "layers", self.layers, EVERY)
        mixed = select_layers(adapter, self, "sla_layers", self.sla_layers, EVERY)
        ops, exits, depth = [], [], len(adapter.layers)
        if self.strength != 0:
            found = self.directions(adapter, inputs)
            ops = [
                TurnUpdates({layer: found[layer] for layer in layers}, self.strength, rows=self.rows, gated=self.gate)
            ]
        if self.sla_alpha > 0 and mixed != {depth - 1}:
            exits = [Exit(layer, norm=layer == depth - 1) for layer in sorted(mixed)]
        combine = _Mix(self.sla_alpha, exits) if exits else None
        return Session(ops=ops, exits=exits, combine=combine, prepared_passes=2 if ops else 0)

    def directions(self, adapter: Adapter, inputs: Inputs) -> Tensor:
        """Return the direction of each layer and prompt, (layers, prompts, D) float32."""
        ends = []
        for batch in (inputs, adapter.without_image(inputs)):
            outputs = ReadOutputs()
            read_prompts(adapter, batch, [outputs])
            ends.append(outputs.states(len(adapter.layers)))
        found = ends[0] - ends[1]
        rounding = max(_ROUNDING, torch.finfo(adapter.model.dtype).eps / 2)
        lengths = found.norm(dim=-1, keepdim=True)
        found = found.masked_fill(lengths <= rounding * ends[0].norm(dim=-1, keepdim=True), 0)
        if self.twin == 0:
            return found
        drawn = [random_like(torch.ones(found.shape[-1]), self.twin, f"layer {layer}") for layer in range(len(found))]
        unit = torch.stack(drawn).to(found.device) / found.shape[-1] ** 0.5
        random: Tensor = unit[:, None] * found.norm(dim=-1, keepdim=True)
        return random


class _Mix:
    """Mixes the predictions of inner layers into the last one's."""

    def __init__(self, alpha: float, exits: Sequence[Exit]) -> None:
        self._alpha, self._exits = alpha, exits

    def __call__(self, step: Step) -> Tensor:
        main = step.main
        early = torch.stack([step.exits[key].to(main.device) for key in self._exits]).mean(dim=0)
        return torch.where(main.isneginf(), main, (1 - self._alpha) * main + self._alpha * early)
