"""Attention rows computed outside the fused kernel, with no edit: the noise floor of strategies that edit rows.

Paper     None: a control of strategies that edit the newest row of attention, such as `iat`, `pai` and `acg`.
Idea      These strategies compute the row step by step, where plain decoding has a fused kernel that rounds otherwise.
          Do only that. What share of answers this alone changes is no effect of an edit.
Formula   newest row: softmax(q K / sqrt(D)) V in float32, as the edited rows of other strategies
Defaults  All layers. For a strategy that acts in some layers, give the same ones: recomputed(layers='5:18').
Cost      Attention weights of the newest row are computed explicitly in the chosen layers.
Differs   Scores equal those of plain decoding up to rounding, so that an answer changes where two tokens are almost
          equally likely: in half precision more often than in float32. Without a picture nothing is recomputed, as with
          the strategies that it controls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.strategies import Session, Steer, Strategy, layers_option, select_layers


@dataclass(frozen=True)
class Recomputed(Strategy):
    """Compute the newest row of attention outside the fused kernel, and change nothing.

    Attributes:
        layers: Layers in which it is computed.
    """

    name: ClassVar[str] = "recomputed"

    layers: str = layers_option(":")

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Recompute the newest row; without a picture return an empty session."""
        if not has_picture(inputs):
            return Session()
        return Session(ops=[Recompute(select_layers(adapter, self, "layers", self.layers))])


class Recompute(Steer):
    """Computes the newest row of attention explicitly, and edits nothing."""

    first_row = -1
