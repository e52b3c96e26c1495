"""Pay attention to the image (PAI).

Paper     Liu et al., ECCV 2024, arXiv:2407.21771; LALBJ/PAI.
Idea      Raise the newest row's attention to the picture, and subtract the prediction without the picture ("text
          inertia").
Formula   scores before softmax, newest row, all heads of the chosen layers: s_k += alpha |s_k| for image columns k
          log-probabilities: gamma l + (1 - gamma) l_u, l_u without picture and unsteered,
          kept where l >= max l + log beta
Defaults  alpha 0.5, gamma 1.1, beta 0.1; all layers except the first two (2 to 31 of 32).
Cost      Attention weights of the newest row are computed explicitly. With gamma > 1 also a second row per token and a
          short prefill.
Compared  alpha and gamma: paper 0.5 and 1.1 for LLaVA; scripts 0.2 and 2.0, their README 0.2 and 1.1; ours
            the paper's
          cut-off: released code none with gamma = 1; ours likewise
          baseline: the same decoding (greedy, beams or nucleus sampling) without the method and its cut-off
Differs   Works with greedy, sampling and beams. Masked columns stay masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import Columns
from mmhall.options import by_model, option
from mmhall.strategies import (
    CONTRAST,
    Branch,
    Contrast,
    RaiseColumns,
    RowStrategy,
    Session,
    layers_option,
    random_columns,
    select_layers,
    twin_option,
)


@dataclass(frozen=True)
class PAI(RowStrategy):
    """Raise attention to the picture and subtract the picture-free prediction.

    Attributes:
        alpha: Strength of the increase, >= 0; 0 does not change attention.
        gamma: Strength of the guidance, >= 1; 1 uses no branch.
        beta: Plausibility cut-off of the guidance, in [0, 1].
        layers: Layers in which attention is raised.
        twin: 0: the strategy; a larger number: the seed of a random twin (as many columns at random; guidance stays).
    """

    name: ClassVar[str] = "pai"

    alpha: float = by_model(0.5, low=0, tries=(0.1, 0.2, 0.35, 0.5))
    gamma: float = by_model(1.1, low=1, tries=(1.0, 1.1, 1.5, 2.0, 3.0))
    beta: float = option(0.1, low=0, high=1)
    layers: str = layers_option("6%:", tries=("6%:", "50%:"))
    twin: int = twin_option()

    ways_out: ClassVar = {CONTRAST: "pai(gamma=1), which has no contrast"}

    @property
    def claims(self) -> frozenset[str]:  # type: ignore[override]
        """The rows of attention, and the contrast unless gamma is 1."""
        rows = RowStrategy.claims
        return rows if self.gamma == 1 else rows | {CONTRAST}

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Raise the image columns, and contrast with a picture-free branch."""
        if not has_picture(inputs):
            return Session()
        image: Tensor = adapter.image_mask(inputs["input_ids"])
        if self.twin:
            image = random_columns(adapter, inputs, image, self.twin)
        layers = select_layers(adapter, self, "layers", self.layers)
        ops = [RaiseColumns(layers, Columns(self.alpha * image.float()))] if self.alpha > 0 else []
        if self.gamma == 1:
            return Session(ops=ops)
        bare = Branch(adapter.without_image(inputs))
        return Session(ops=ops, branches=[bare], combine=Contrast(self.gamma - 1, self.beta))
