"""Visual attention redistribution (VAR).

Paper     Kang et al., ICLR 2025, arXiv:2503.03321; seilk/VisAttnSink.
Idea      Some image tokens draw much attention without content ("visual sinks"); their hidden states are huge in a few
          fixed dimensions. In heads that mostly attend to other image tokens, move the sinks' attention to those.
Formula   sink: max over the sink dimensions of |x_d| / rms(x) >= tau, x the input of the layer at prefill
          a head is selected in a row where image mass >= mass and non-sink share of it >= rho
          A_k *= keep for sinks (of picture and text); A_k *= 1 + (1 - keep) A_sinks / A_rest for other image tokens
Defaults  tau 20 sqrt(width / 4096), rho 0.5, mass 0.2, keep 0.4, all layers except the first two and the last. Sink
          dimensions are detected in the model: those in which the first token of a text is massive. (Published: 1415
          and 2533 of LLaMA-2-7B, 2100 and 4743 of 13B.)
Cost      Attention weights of the rows behind the picture are computed explicitly, in most layers.
Compared  keep: paper moves a share of 0.6, so keeps 0.4; released code keeps 0.6 (keep=0.6); ours 0.4
          heads: paper share of other image tokens at least rho; released code share of sinks at most rho, the
            same at rho 0.5; ours the paper's
          layers: paper not the last; released code the last too, as its switch has no effect; ours not
          tau: paper and released code 20 in models of 4096 and 5120 dimensions; ours scaled, because |x_d| / rms(x) is
            at most sqrt(width): in a model of 192 dimensions nothing could reach 20. tau=20 is the paper's
          denominators: released code adds 1e-6 for each token; ours nothing
          baseline: not told in what this was written from; without a branch there is no cut-off
Differs   Each row of a batch has its own sinks and heads. In a model without massive dimensions nothing is changed.
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
    massive_threshold,
    massiveness,
    random_choice,
    select_layers,
    twin_option,
)

_TAU, _WIDTH = 20.0, 4096  # the published threshold, and the hidden size of its model


@dataclass(frozen=True)
class VAR(RowStrategy):
    """Move attention from visual sinks to the rest of the picture.

    Attributes:
        keep: Share of their attention that sinks keep, in [0, 1]; 1 changes nothing.
        rho: Smallest share of non-sinks in a head's attention to the picture, in [0, 1].
        mass: Smallest attention of a head to the picture, in [0, 1].
        tau: Threshold of a sink's activation, in root mean squares, > 0; by default 20 at a hidden size of 4096, and
            in proportion to the square root of the hidden size.
        sink_dims: Hidden dimensions that identify sinks; (): detected in the model.
        layers: Layers in which attention is moved.
        rows: "all" rows behind the picture, or the "last" row of the prompt and all later ones.
        twin: 0: the strategy; a larger number: the seed of a random twin (as many heads at random in each row).
    """

    name: ClassVar[str] = "var"

    keep: float = by_model(0.4, low=0, high=1, tries=(0.0, 0.4, 0.6, 0.8))
    rho: float = by_model(0.5, low=0, high=1, tries=(0.5, 0.8))
    mass: float = option(0.2, low=0, high=1)
    tau: float = by_model(_TAU, holds=lambda tau: tau > 0, expected="a number > 0")
    sink_dims: tuple[int, ...] = by_model(
        (), holds=lambda dims: all(type(d) is int and d >= 0 for d in dims), expected="a tuple of dimensions >= 0"
    )
    layers: str = layers_option("6%:-1", tries=("6%:-1", "50%:-1"))
    rows: str = option("all", choices=("all", "last"))
    twin: int = twin_option()

    def fitted(self, adapter: Adapter) -> Strategy:
        """Fit the options, scale an open threshold, and detect the sink dimensions where none are given."""
        method = super().fitted(adapter)
        assert isinstance(method, VAR)
        if super().origins(adapter).get("tau") == GENERAL:
            method = dataclasses.replace(method, tau=massive_threshold(adapter, _TAU, _WIDTH))
        if method.sink_dims:
            return method
        return dataclasses.replace(method, sink_dims=massive_dimensions(adapter, method.tau))

    def origins(self, adapter: Adapter) -> dict[str, str]:
        """Return the provenance of open options; the threshold and the sink dimensions may come from the model."""
        origins = super().origins(adapter)
        if origins.get("tau") == GENERAL:
            origins["tau"] = f"the published {_TAU:g} at a hidden size of {_WIDTH}, scaled to this model's"
        if origins.get("sink_dims") == GENERAL:
            found = self.fitted(adapter).options()["sink_dims"]
            origins["sink_dims"] = "found in this model" if found else "none found in this model: nothing is changed"
        return origins

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Detect sinks at prefill, and redistribute attention from then on."""
        width = adapter.decoder.config.hidden_size
        self.check("sink_dims", all(d < width for d in self.sink_dims), f"below the model's hidden size, {width}")
        if not has_picture(inputs) or self.keep == 1 or not self.sink_dims:
            return Session()
        image = adapter.image_mask(inputs["input_ids"])
        behind = adapter.after_image(inputs) if self.rows == "all" else None
        layers = select_layers(adapter, self, "layers", self.layers)
        return Session(ops=[_Redistribute(self, layers, behind, image)])


class _Redistribute(Steer):
    """Moves attention from visual sinks to the other image columns."""

    def __init__(self, options: VAR, layers: frozenset[int], behind: Tensor | None, image: Tensor) -> None:
        super().__init__(layers, behind)
        self._options, self._image = options, image
        self._groups: dict[int, Groups] = {}

    def see_states(self, visit: Visit) -> None:
        if visit.layer in self._groups:
            return
        massive = massiveness(visit.states)[..., list(self._options.sink_dims)].amax(dim=-1) >= self._options.tau
        missing = self._image.shape[1] - massive.shape[1]  # a layer may get only the end of the prompt
        sinks = nn.functional.pad(massive, (missing, 0)).to(self._image.device)
        has_sink = (self._image & sinks).any(dim=1, keepdim=True)
        rest = self._image & ~sinks & has_sink  # without a sink in the picture no head is selected
        self._groups[visit.layer] = Groups(sinks, rest, self._image)

    def edit_probs(self, call: Call, rows: LongTensor, probs: Tensor) -> Tensor:
        groups = self._groups[call.layer]
        sinks, rest, image = groups.masses(call, probs)
        selected = (image >= self._options.mass) & (rest >= self._options.rho * image) & (rest > 0)
        if self._options.twin:
            each = random_choice(
                selected.movedim(1, -1), self._options.twin, f"layer {call.layer}", (rest > 0).movedim(1, -1)
            )
            selected = each.movedim(-1, 1)
        moved = (1 - self._options.keep) * selected
        mask = self.row_mask(call, rows)
        if mask is not None:
            moved = moved * mask
        gain = moved * sinks / rest.clamp_min(torch.finfo(probs.dtype).tiny)
        return groups.scale(call, probs, -moved, gain)
