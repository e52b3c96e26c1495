"""Visual and textual intervention (VTI).

Paper     Liu et al., ICLR 2025, arXiv:2410.15778; shengliu66/VTI.
Idea      One direction per layer, found beforehand, leads from hallucinated to faithful texts about pictures; push the
          output of every MLP along it.
Formula   d_j = states of faithful text j minus states of the hallucinated one, at the last token, of all layers as one
          vector; mu = mean of d_j; c = their first principal component, of length 1, with the sign of mu
          v = mu + c, split by layer; m' = |m| N(N(m) + alpha / 10 N(v_l)), m the output of the MLP, N(x) = x / |x|
Defaults  alpha 0.8, all layers, as the released code's command line (0.9 in its examples).
Cost      1 row per token, no further pass. The fit reads each pair of texts once.
Compared  what is edited: paper, the hidden states; released code and ours, the MLP's output, whose length stays.
          states: released code, the library's hidden states, of which the last has passed the final norm and is written
          before it; ours, the outputs of the layers.
          sign of c: released code, that of the largest entry, so that it may point away from mu; ours, that of mu.
          question: released code, that of the last demonstration for all; ours, that of each pair.
          texts: released code, 50 or 70 pairs written by a language model; ours, made from known objects, or yours.
          dtype: released code, float16 whatever the model's; ours, float32, cast back.
          baseline: the models' own decoding in each benchmark, beams in MMHal; no plausibility cut-off.
Differs   The text half alone: the other half, which steers the vision tower by pictures with masked patches, is not
          built. Its strength is 0 on the released code's command line. component=False leaves out c; where c is almost
          orthogonal to mu it says how texts vary, not where they point, and is left out with a note in the artifact.
          alpha below 0 steers towards hallucinated texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import EVERY
from mmhall.errors import FitError
from mmhall.fitting import read_states
from mmhall.options import by_model
from mmhall.strategies import (
    MLP_UPDATE,
    Fit,
    LearnedStrategy,
    Pair,
    Session,
    TurnUpdates,
    layers_option,
    random_like,
    rows_option,
    select_layers,
    shuffled_range,
    sign_aligned_component,
    twin_option,
)


@dataclass(frozen=True)
class VTI(LearnedStrategy):
    """Steer what the MLPs add from hallucinated towards faithful texts.

    Attributes:
        alpha: Strength of the steering; 0: none; below 0: towards hallucinated texts.
        component: Whether the first principal component is added to the mean.
        rows: Positions that are steered: "all", or "answer": the last of the prompt and every later one.
        layers: Layers that are steered.
        twin: 0: the strategy; a larger number: the seed of a random twin (random directions of the same lengths).
    """

    name: ClassVar[str] = "vti"
    claims: ClassVar[frozenset[str]] = frozenset({MLP_UPDATE})
    adjustable: ClassVar[frozenset[str]] = frozenset({"alpha", "layers"})

    alpha: float = by_model(0.8, tries=(0.2, 0.4, 0.8, 1.6))
    component: bool = by_model(True)
    rows: str = rows_option()
    layers: str = layers_option(":")
    twin: int = twin_option()

    def fit(self, adapter: Adapter, pairs: Sequence[Pair], seed: int) -> Fit:
        """Measure the direction of every layer.

        Raises:
            FitError: The texts do not differ in a common direction.
        """
        differences = torch.stack(
            [
                read_states(adapter, pair.picture, pair.prompt, pair.faithful)
                - read_states(adapter, pair.picture, pair.prompt, pair.hallucinated)
                for pair in pairs
            ]
        )
        found = shuffled_range(differences, seed)
        found.check("all layers")
        direction, numbers = find_direction(differences, component=bool(self.component))
        lengths = direction.norm(dim=-1).tolist()
        return Fit({"direction": direction}, {"all layers": found.record(), **numbers, "lengths": lengths})

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Steer towards faithful texts; without a picture return an empty session."""
        direction = self.learned(adapter).tensors["direction"]
        if not has_picture(inputs) or self.alpha == 0:
            return Session()
        if self.twin:
            direction = random_like(direction, self.twin, "directions")
        layers = select_layers(adapter, self, "layers", self.layers, EVERY)
        directions = {layer: direction[layer].to(adapter.device) for layer in layers}
        return Session(ops=[TurnUpdates(directions, self.alpha / 10, rows=self.rows)])


def find_direction(differences: Tensor, *, component: bool) -> tuple[Tensor, dict[str, Any]]:
    """Return the direction of each layer and the numbers of its component.

    Args:
        differences: Faithful minus hallucinated, (pairs, layers, D).
        component: Whether the first principal component of all layers together is added to the mean.

    Returns:
        The direction, (layers, D) float32, and numbers for the artifact.
    """
    mean = differences.double().mean(dim=0).float()
    if not component:
        return mean, {}
    try:
        found = sign_aligned_component(differences.flatten(1))
    except FitError as error:
        return mean, {"component": f"left out, the direction is the mean: {error}"}
    part = found.direction.view_as(mean).to(mean)
    numbers = {"cosine with the mean": found.cosine, "share of the variance": found.share}
    return mean + part, {"component": numbers}
