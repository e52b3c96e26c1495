"""Self-introspective decoding (SID).

Paper     Huo et al., ICLR 2025, arXiv:2408.02032; huofushuo/SID.
Idea      A branch that keeps only the image tokens which the model attends to least hallucinates more; subtract it.
Formula   at every step the branch ranks the image tokens by the newest row's attention in one layer, averaged over
          heads; layers behind it see only the share `keep` of them with the least
          s = (1 + alpha) z - alpha z', kept where z >= max z + log beta
Defaults  alpha 0.5 (their nominal one is 1, and their scripts do not pass it), beta 0.1, the second of 32 layers; of
          other models the layer at 4% of the depth, which is the second of 25 to 49 layers, the first of fewer;
          keep 0.1736, 100 of 576 image tokens, as for yes/no questions (for captions 50: 0.0868).
Cost      2 rows per token instead of 1, in one pass; one more prefill of full length. Image tokens are hidden, not
          dropped, which says the same and costs as much as if they were seen.
Differs   A share instead of a number, as other models have other numbers of image tokens. The argmax is taken after the
          cut-off (theirs: before, so that implausible tokens can win). Each row of a batch ranks by its own attention
          (theirs: by the first row's). Recurrent layers, where there are any, cannot hide what they have read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor, nn

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import Call, Op
from mmhall.options import by_model
from mmhall.strategies import Branch, Contrast, ContrastStrategy, Session, layers_option, select_layers

_HIDDEN = -1e9
"""Bias of a hidden column: exp(-1e9) is 0. With -inf, rows of hidden tokens that see nothing else would hold NaN."""


@dataclass(frozen=True)
class SID(ContrastStrategy):
    """Contrast with a branch that sees the least attended image tokens only.

    Attributes:
        alpha: Contrast strength, >= 0; 0 keeps the plain scores.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        keep: Share of the image tokens that the branch keeps, in [0, 1]; 1: all, and nothing is subtracted.
        layer: The layer whose attention ranks the image tokens; the layers behind it see those that are kept, and there
            must be one.
    """

    name: ClassVar[str] = "sid"
    published: ClassVar = {("llava", 32): {"alpha": 0.5, "keep": 0.1736, "layer": "1"}}

    alpha: float = by_model(0.5, low=0, tries=(0.25, 0.5, 1.0, 2.0))
    keep: float = by_model(0.1736, low=0, high=1, tries=(0.0868, 0.1736, 0.5))
    layer: str = layers_option("4%")

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose pictures are no tokens beside the text's."""
        if adapter.image_in_sequence:
            return None
        return "layers of their own attend to its pictures (cross-attention), so there are no image tokens to rank"

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Decode the same prompt with few image tokens beside it; without a picture there is nothing to hide."""
        combine = Contrast(0.0 if self.keep == 1 else self.alpha, self.beta)
        if not has_picture(inputs) or combine.neutral:
            return Session()
        if combine.alpha == 0:
            return Session(combine=combine)
        layers = select_layers(adapter, self, "layer", self.layer)
        self.check("layer", len(layers) == 1, "one layer of this model")
        behind = adapter.kinds[min(layers) + 1 :]
        attend = any(kind in adapter.image_kinds for kind in behind)
        self.check("layer", attend, "one with layers behind it that attend to image tokens: only they are changed")
        image = adapter.image_mask(inputs["input_ids"])
        least = LeastAttended(min(layers), len(adapter.layers), image, self.keep)
        return Session(branches=[Branch(dict(inputs), [least])], combine=combine)


class LeastAttended(Op):
    """Hides all but the least attended image tokens from the layers behind one, newly chosen in every pass."""

    def __init__(self, layer: int, depth: int, image: Tensor, keep: float) -> None:
        """Say what to rank.

        Args:
            layer: Whose attention ranks them.
            depth: Number of decoder layers.
            image: Image positions of the prompts, (prompts, T) bool.
            keep: Share of the image tokens of each prompt that is kept.
        """
        self.layers = frozenset(range(layer, depth))
        self._layer, self._image = layer, image
        self._count = (keep * image.sum(dim=-1)).round()
        self._hidden: Tensor | None = None  # (B, R, T) bool, of the pass that is being made

    def rows(self, call: Call) -> LongTensor | None:
        """Name the newest rows, in the layer that ranks."""
        return call.newest if call.layer == self._layer else None

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Choose the image tokens to hide from each row; columns that a window has left behind are not attended to."""
        length = self._image.shape[1]
        first = min(max(0, call.offset), length)
        attended = probs[..., first - call.offset : length - call.offset].mean(dim=1)
        image = call.each(self._image)[:, None].to(probs.device)
        count = call.each(self._count)[:, None, None].to(probs.device)
        self._hidden = mask_most_attended(nn.functional.pad(attended, (first, 0)), image, count)

    def bias(self, call: Call) -> Tensor | None:
        """Hide them: of a prompt from all rows, of an answer from each row what it has chosen itself."""
        if call.layer == self._layer or self._hidden is None:
            return None
        length, width = self._image.shape[1], call.key.shape[2]
        before = -min(call.offset, length)
        laid = nn.functional.pad(self._hidden.float(), (before, width - length - before))
        return _HIDDEN * laid[:, None].to(call.device)


def mask_most_attended(attended: Tensor, image: Tensor, count: Tensor) -> Tensor:
    """Mark the image tokens that are not among the least attended ones, (B, R, T) bool; of equal ones the later.

    Args:
        attended: Attention of each row to each position, (B, R, T).
        image: Image positions, (B, 1, T) bool.
        count: How many to keep, (B, 1, 1).
    """
    order = attended.masked_fill(~image, torch.inf).argsort(dim=-1, stable=True)
    return image & (order.argsort(dim=-1) >= count)
