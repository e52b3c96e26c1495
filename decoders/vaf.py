"""Visual amplification fusion (VAF, "ClearSight").

Paper     Yin et al., CVPR 2025, arXiv:2503.13107; ustc-hyin/ClearSight.
Idea      Attention to the picture is weak in the middle layers, where picture and text fuse: amplify it there, and
          damp attention to the tokens before the picture.
Formula   scores before softmax, rows behind the picture: s_k *= 1 + alpha for image columns,
          s_k *= 1 - beta for columns before the first picture
Defaults  alpha 0.15, beta 0.05; layers 9 to 14 of 32.
Cost      Attention weights of the rows behind the picture are computed explicitly, in six layers of 32.
Compared  beta: released code 0.05; others report 0.1 of the paper; ours 0.05
          heads: released code all; others report of the paper the half with most attention to the picture;
            ours all (heads="visual": that half)
          spans: released code fixed places of one template; ours from the prompt
          baseline: not told in what this was written from; without a branch there is no cut-off
Differs   Multiplying makes negative scores more negative: such a column loses weight. This follows the authors' code;
          `pai` always raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import Call, Columns, Groups, first_marked
from mmhall.options import by_model, option
from mmhall.strategies import (
    RowStrategy,
    Session,
    Steer,
    layers_option,
    random_columns,
    select_layers,
    top_half,
    twin_option,
)


@dataclass(frozen=True)
class VAF(RowStrategy):
    """Amplify the picture's scores in the middle layers.

    Attributes:
        alpha: Amplification of image columns, >= 0.
        beta: Damping of the columns before the picture, in [0, 1].
        layers: Layers in which scores are amplified.
        heads: "all", or "visual": in each row the half of the heads with most attention to the picture.
        twin: 0: the strategy; a larger number: the seed of a random twin (as many columns at random).
    """

    name: ClassVar[str] = "vaf"

    alpha: float = by_model(0.15, low=0, tries=(0.05, 0.15, 0.3, 0.6, 1.2))
    beta: float = option(0.05, low=0, high=1)
    layers: str = layers_option("28%:44%", tries=("28%:44%", "28%:72%", "50%:"))
    heads: str = option("all", choices=("all", "visual"))
    twin: int = twin_option()

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Scale scores of the rows behind the picture."""
        if not has_picture(inputs) or self.alpha == self.beta == 0:
            return Session()
        image: Tensor = adapter.image_mask(inputs["input_ids"])
        behind = adapter.after_image(inputs)
        before = inputs["attention_mask"].bool() & (image.cumsum(dim=1) == 0)
        if self.twin:
            image = random_columns(adapter, inputs, image, self.twin)
        layers = select_layers(adapter, self, "layers", self.layers)
        gain = self.alpha * image.float() - self.beta * (before & ~image).float()
        return Session(ops=[_Amplify(layers, behind, gain, image if self.heads == "visual" else None)])


class _Amplify(Steer):
    """Scales scores of image columns, and of the columns before the picture."""

    def __init__(self, layers: frozenset[int], behind: Tensor, gain: Tensor, image: Tensor | None) -> None:
        super().__init__(layers, behind)
        self.first_row = first_marked(behind)
        self._gain = Columns(gain)
        self._image = Groups(image) if image is not None else None

    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        gain, mask = self._gain(call), self.row_mask(call, rows)
        if mask is not None:
            gain = gain * mask
        if self._image is not None:
            (masses,) = self._image.masses(call, scores.softmax(dim=-1))
            gain = gain * top_half(masses)
        return scores * (1 + gain)
