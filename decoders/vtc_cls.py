"""Compression of visual tokens by the class token's attention (VTC-CLS).

Paper     arXiv:2412.05819; THU-MIG/VTC-CLS.
Idea      The class token of the vision tower gathers what the picture is about. Give the language model only the
          patches that it attends to: a shorter prompt saves time and memory.
Formula   score of patch j: sum over encoder layers of A[class, j], averaged over heads
          the share `keep` of each picture's patches with the highest scores become image tokens, in their order
Defaults  keep 0.25, and the later half of the encoder layers: ours, as released scripts take both numbers as arguments
          and the paper's are not known to us. The last layer is left out, as in released code.
Cost      Less time and memory than plain decoding: no layer of the decoder holds a token that is not kept. The vision
          tower reads all patches, as before.
Compared  where: released code takes patches out before the projector; ours after it, before the first decoder layer,
            which gives the same states, as the projector reads each patch by itself
          positions: both those of the shorter prompt, without gaps
          several pictures: released code one; ours each picture keeps the same share
          baseline: greedy; there is no cut-off
Differs   A share instead of a number. Needs a class token in the tower (CLIP), image tokens that are its patches one by
          one, and a decoder of full attention with rotary embeddings in one dimension: others are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.options import by_model
from mmhall.strategies import (
    ClassRanking,
    Session,
    Strategy,
    layers_option,
    select_tower_layers,
    twin_option,
    why_no_class_scores,
)


@dataclass(frozen=True)
class VTCCLS(Strategy):
    """Give the language model only the patches that the vision tower's class token attends to.

    Attributes:
        keep: Share of each picture's patches to keep, above 0, at most 1; 1: all, nothing is dropped.
        layers: Encoder layers of the vision tower whose attention is added up.
        twin: 0: the strategy; a larger number: the seed of a random twin (patches at random).
    """

    name: ClassVar[str] = "vtc-cls"

    keep: float = by_model(
        0.25, low=0, high=1, holds=lambda keep: keep > 0, expected="above 0, at most 1", tries=(0.125, 0.25, 0.5)
    )
    layers: str = layers_option("50%:-1")
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models without a class token, without a token for each patch, or whose tokens cannot be dropped."""
        return why_no_class_scores(adapter)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Rank patches while the pictures are encoded, and drop the others; without a picture: an empty session."""
        if not has_picture(inputs) or self.keep == 1:
            return Session()
        layers = select_tower_layers(adapter, self, "layers", self.layers)
        ranking = ClassRanking(self.name, adapter.image_mask(inputs["input_ids"]), layers, self.keep, self.twin)
        return Session(ops=[ranking, ranking.drop(contiguous=True)])
