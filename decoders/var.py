"""Visual attention redistribution (VAR).

Paper     Kang et al., ICLR 2025, arXiv:2503.03321; seilk/VisAttnSink.
Idea      Some image tokens draw much attention without meaning anything ("visual sinks"); their hidden states are
          huge in a few fixed dimensions. Heads that look at the picture otherwise give the sinks' attention to the
          other image tokens.
Formula   sink: max over the sink dimensions of |x_d| / rms(x) >= tau, x what enters the layer at prefill
          a head is chosen in a row where image mass >= mass and non-sink share of it >= rho
          A_k *= keep for sinks (of picture and text); A_k *= 1 + (1 - keep) A_sinks / A_rest for other image tokens
Defaults  tau 20, rho 0.5, mass 0.2, keep 0.4 (the paper moves a fraction 0.6; the released code keeps 0.6: keep=0.6),
          all layers but the first two and the last. Sink dimensions are found in the model: those in which the
          first token of a text is massive. (Published: 1415 and 2533 of LLaMA-2-7B, 2100 and 4743 of 13B.)
Cost      The rows behind the picture by hand, in most layers.
Differs   Each row of a batch has its own sinks and heads. Denominators have no added constant. The authors' code also
          edits the last layer, since its switch for that has no effect. A model without massive dimensions has
          no sinks: nothing is changed then.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor, nn

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import Call, Groups, Visit
from mmhall.options import by_model, option
from mmhall.strategies import (
    GENERAL,
    RowStrategy,
    Session,
    Steer,
    Strategy,
    layers_option,
    massive_dimensions,
    massiveness,
    select_layers,
)


@dataclass(frozen=True)
class VAR(RowStrategy):
    """Move attention from visual sinks to the rest of the picture.

    Attributes:
        keep: Share of their attention that sinks keep, in [0, 1]; 1 changes nothing.
        rho: Least share of non-sinks in a head's attention to the picture, in [0, 1].
        mass: Least attention of a head to the picture, in [0, 1].
        tau: How massive a sink is, in root mean squares, > 0.
        sink_dims: Hidden dimensions that give sinks away; (): found in the model.
        layers: Layers in which attention is moved.
        rows: "all" rows behind the picture, or the "last" one of the prompt only, and every later one.
    """

    name: ClassVar[str] = "var"

    keep: float = by_model(0.4, low=0, high=1, tries=(0.0, 0.4, 0.6, 0.8))
    rho: float = by_model(0.5, low=0, high=1, tries=(0.5, 0.8))
    mass: float = option(0.2, low=0, high=1)
    tau: float = option(20.0, holds=lambda tau: tau > 0, expected="a number > 0")
    sink_dims: tuple[int, ...] = by_model(
        (), holds=lambda dims: all(type(d) is int and d >= 0 for d in dims), expected="a tuple of dimensions >= 0"
    )
    layers: str = layers_option("6%:-1", tries=("6%:-1", "50%:-1"))
    rows: str = option("all", choices=("all", "last"))

    def fitted(self, adapter: Adapter) -> Strategy:
        """Find the sink dimensions where none are known."""
        filled = super().fitted(adapter)
        assert isinstance(filled, VAR)
        if filled.sink_dims:
            return filled
        return dataclasses.replace(filled, sink_dims=massive_dimensions(adapter, filled.tau))

    def origins(self, adapter: Adapter) -> dict[str, str]:
        """Say where open options get their values from."""
        told = super().origins(adapter)
        return {
            option: self._found(adapter) if (option, why) == ("sink_dims", GENERAL) else why
            for option, why in told.items()
        }

    def _found(self, adapter: Adapter) -> str:
        found = massive_dimensions(adapter, self.tau)
        return "found in this model" if found else "none found in this model: nothing is changed"

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Watch for sinks at prefill, redistribute from then on."""
        width = adapter.decoder.config.hidden_size
        self.check("sink_dims", all(d < width for d in self.sink_dims), f"below the model's hidden size, {width}")
        if not has_picture(inputs) or self.keep == 1 or not self.sink_dims:
            return Session()
        image = adapter.image_mask(inputs["input_ids"])
        behind = adapter.after_image(inputs) if self.rows == "all" else None
        layers = select_layers(adapter, self, "layers", self.layers)
        return Session(ops=[_Redistribute(self, layers, behind, image)])


class _Redistribute(Steer):
    """Gives the weight of visual sinks to the other image columns."""

    def __init__(self, options: VAR, layers: frozenset[int], behind: Tensor | None, image: Tensor) -> None:
        super().__init__(layers, behind)
        self._options, self._image = options, image
        self._groups: dict[int, Groups] = {}

    def see_states(self, visit: Visit) -> None:
        if visit.layer in self._groups:
            return
        massive = massiveness(visit.states)[..., list(self._options.sink_dims)].amax(dim=-1) >= self._options.tau
        hidden = self._image.shape[1] - massive.shape[1]  # a layer may be given the end of the prompt only
        sinks = nn.functional.pad(massive, (hidden, 0)).to(self._image.device)
        seen = (self._image & sinks).any(dim=1, keepdim=True)
        rest = self._image & ~sinks & seen  # without a sink in the picture no head is chosen
        self._groups[visit.layer] = Groups(sinks, rest, self._image)

    def edit_probs(self, call: Call, rows: LongTensor, probs: Tensor) -> Tensor:
        groups = self._groups[call.layer]
        sinks, rest, image = groups.masses(call, probs)
        chosen = (image >= self._options.mass) & (rest >= self._options.rho * image) & (rest > 0)
        taken = (1 - self._options.keep) * chosen
        edited = self.edited(call, rows)
        if edited is not None:
            taken = taken * edited
        given = taken * sinks / rest.clamp_min(torch.finfo(probs.dtype).tiny)
        return groups.scale(call, probs, -taken, given)
