"""Vision-aware head reinforcement (VHR).

Paper     He et al., ACL 2025, arXiv:2412.13949; jinghan1he/VHR (code not seen).
Idea      Heads whose output changes without the picture carry visual information; amplify them.
Formula   VHD = |a(picture, text) - a(text)|, a a head's output at the last prompt position before the output projection
          outliers: VHD = 0 where VHD > mean + std and |a(text)|^2 > mean + std, over the heads of a layer
          heads with VHD above the layer's median are multiplied by alpha from then on, at every position
          layer by layer: each layer is compared after the layers before it were reinforced
Defaults  alpha 2; LLaVA-1.5-7B and LLaVA-NeXT-7B layers 1 and 18 to 31 of 32, InstructBLIP-7B 14 to 31.
Cost      One more pass over the text alone, in lock step with the prompt; nothing afterwards.
Compared  std: paper says not which; ours that of the population (ddof)
          positions: paper says not which of the prompt; ours all (positions), of the text-only pass too
            (scale_text)
          VHD: paper the length of the difference; released code, as others report, its square, which changes
            the outlier rule alone; ours the length (squared=True)
          baseline: paper greedy, with beam search beside it; without a branch in decoding there is no cut-off
Differs   Heads are selected for each prompt, before its beams differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import SELF_ATTENTION, Call, Op
from mmhall.options import by_model, option
from mmhall.strategies import (
    HEAD_GAINS,
    Branch,
    Session,
    Strategy,
    layers_option,
    random_choice,
    select_layers,
    twin_option,
)

_ROUNDING = 1e-4
"""Smallest relative distance of a head's outputs; less is rounding, as where a window no longer holds the picture."""


@dataclass(frozen=True)
class VHR(Strategy):
    """Amplify the heads that carry visual information.

    Attributes:
        alpha: Gain of the selected heads, >= 0; 1 changes nothing.
        layers: Layers whose heads are amplified.
        positions: Reinforce "all" prompt positions, or only the "last".
        scale_text: Whether to reinforce the text-only pass too.
        squared: Compare squared distances.
        ddof: 0: population, 1: sample standard deviation in the outlier rule.
        twin: 0: the strategy; a larger number: the seed of a random twin (as many heads at random in each layer).
    """

    name: ClassVar[str] = "vhr"
    claims: ClassVar[frozenset[str]] = frozenset({HEAD_GAINS})
    published: ClassVar = {
        ("llava", 32): {"alpha": 2.0, "layers": "1, 18:32"},
        ("llava_next", 32): {"alpha": 2.0, "layers": "1, 18:32"},
        ("instructblip", 32): {"alpha": 2.0, "layers": "14:32"},
    }

    alpha: float = by_model(2.0, low=0, tries=(1.2, 1.5, 2.0, 3.0))
    layers: str = layers_option("56%:", tries=("56%:", "3%, 56%:", "28%:"))
    positions: str = option("all", choices=("all", "last"))
    scale_text: bool = option(True)
    squared: bool = option(False)
    ddof: int = option(0, low=0, high=1)
    twin: int = twin_option()

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Read the text alone in lock step with the prompt, and select heads."""
        if not has_picture(inputs) or self.alpha == 1:
            return Session()
        layers = select_layers(adapter, self, "layers", self.layers, SELF_ATTENTION)
        reinforce = Reinforce(self, layers, prompts=len(inputs["input_ids"]))
        bare = Branch(
            adapter.without_image(inputs), [ReinforceText(reinforce)] if self.scale_text else (), lockstep=True
        )
        return Session(ops=[reinforce], branches=[bare])


class Reinforce(Op):
    """Selects heads while the prompt is read, and amplifies them from then on.

    Attributes:
        gains: Gain of each head by layer, (prompts, H).
    """

    compares = True

    def __init__(self, options: VHR, layers: frozenset[int], prompts: int) -> None:
        """Store the options, and how many prompts there are."""
        self.layers, self._options, self._prompts = layers, options, prompts
        self.first_row = -1 if options.positions == "last" else 0
        self.gains: dict[int, Tensor] = {}

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Select heads, then amplify them."""
        if call.reference is not None:
            selected = select_heads(output[:, -1], call.reference[:, -1], self._options.squared, self._options.ddof)
            if self._options.twin:  # half of the heads is selected
                selected = random_choice(selected, self._options.twin, f"layer {call.layer}", others=False)
            gains = self.gains.setdefault(call.layer, output.new_ones(self._prompts, selected.shape[1]))
            own = slice(None) if call.owners is None else call.owners.to(gains.device)
            gains[own] = torch.where(selected, self._options.alpha, 1.0).to(gains)
        return self.amplify(call, output)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return the gain of each head."""
        gains = {layer: values[0].float().cpu() for layer, values in sorted(self.gains.items())}
        empty = torch.full_like(next(iter(gains.values())), torch.nan) if gains else None
        return {} if empty is None else {"head gains": torch.stack([gains.get(i, empty) for i in range(depth)])}

    def amplify(self, call: Call, output: Tensor) -> Tensor:
        """Amplify the selected heads of a layer, (B, Q, H, D)."""
        gains = call.each(self.gains[call.layer])[:, None, :, None]
        if call.prefill and self._options.positions == "last":
            return torch.cat([output[:, :-1], output[:, -1:] * gains], dim=1)
        return output * gains


class ReinforceText(Op):
    """Amplifies the selected heads in the text-only pass, at the same positions."""

    def __init__(self, reinforce: Reinforce) -> None:
        """Store the op of the pass with the picture, which selects the heads."""
        self.layers, self._reinforce = reinforce.layers, reinforce

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Amplify the selected heads."""
        return self._reinforce.amplify(call, output)


def select_heads(pictured: Tensor, bare: Tensor, squared: bool = False, ddof: int = 0) -> Tensor:
    """Select the heads that carry visual information, (B, H) bool.

    Distances 1, 2, 3, 9 with norms 1, 1, 1, 5 of the text-only outputs: the fourth head is above mean plus deviation in
    both (3.75 + 3.11 and 7 + 10.4), so its distance counts 0, and of 1, 2, 3, 0 the second and third exceed the median.

    Args:
        pictured: Head outputs at the last position with the picture, (B, H, D).
        bare: Head outputs without the picture, (B, H, D).
        squared: Compare squared distances.
        ddof: Degrees of freedom subtracted in the standard deviations.
    """
    distance = (pictured.float() - bare.float()).norm(dim=-1)
    size = bare.float().norm(dim=-1)
    rounding = max(_ROUNDING, torch.finfo(bare.dtype).eps)
    distance = distance.masked_fill(distance < rounding * size, 0.0)
    distance, surge = distance**2 if squared else distance, size**2
    outlier = _is_outlier(distance, ddof) & _is_outlier(surge, ddof)
    distance = distance.masked_fill(outlier, 0.0)
    selected: Tensor = distance > distance.median(dim=1, keepdim=True).values
    return selected


def _is_outlier(values: Tensor, ddof: int) -> Tensor:
    mean, deviation = values.mean(dim=1, keepdim=True), values.std(dim=1, keepdim=True, correction=ddof)
    return values > mean + deviation
