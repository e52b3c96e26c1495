"""Self-introspective decoding (SID).

Paper     Huo et al., ICLR 2025, arXiv:2408.02032; huofushuo/SID.
Idea      A branch with only the least attended image tokens hallucinates more; subtract its prediction.
Formula   at every step the branch ranks the image tokens by the newest row's attention in one layer, averaged over
          heads; later layers see only the share `keep` of them with the least
          s = (1 + alpha) z - alpha z', kept where z >= max z + log beta
Defaults  alpha 0.5, beta 0.1, the second of 32 layers; in other models the layer at 4% of the depth, which is the
          second of 25 to 49 layers, the first of fewer; keep 0.1736, 100 of 576 image tokens, as for yes/no questions
          (50 for captions: 0.0868).
Cost      2 rows per token instead of 1, in one pass; one more prefill of full length. Image tokens are masked, not
          dropped, as another step may choose them again: the result is the same, at the cost of visible tokens.
Compared  alpha: nominal 1; scripts pass none, so 0.5; ours 0.5
          cut-off: released greedy code takes the best token before it, so that implausible tokens can win;
            ours after (compat=True: before, in sampling too)
          batch: released code the first row ranks for all; ours each for itself (compat=True: the first)
          fast variant: released code drops the rows and reads the whole text anew at each step, so that
            earlier tokens see the newest choice; ours keeps a cache: each token keeps its own choice
          baseline: greedy and sampling without the method, neither with the cut-off; the VCD beside it in
            the captions script normalises its picture twice
Differs   A share instead of a number, as models differ in their number of image tokens. Recurrent layers, if any,
          cannot mask tokens that they have read. compat=True refuses batches whose prompts differ in their number of
          image tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor, nn

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import Call, Op
from mmhall.options import by_model, option
from mmhall.strategies import (
    Branch,
    Contrast,
    ContrastStrategy,
    Session,
    layers_option,
    select_layers,
    shuffled_columns,
    twin_option,
    why_no_image_columns,
)

_MASKED = -1e9
"""Bias of a masked column: exp(-1e9) is 0. With -inf, rows with all columns masked would hold NaN."""


@dataclass(frozen=True)
class SID(ContrastStrategy):
    """Contrast with a branch that sees only the least attended image tokens.

    Attributes:
        alpha: Contrast strength, >= 0; 0 keeps the plain scores.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        keep: Share of the image tokens that the branch sees, in [0, 1]; 1: all, nothing is subtracted.
        layer: The layer whose attention ranks the image tokens; the layers after it, at least one, see those that are
            kept.
        compat: Whether to keep of the released greedy code: implausible tokens can win, as it takes the best token
            before the cut-off; and the first row of a batch ranks for all rows.
        twin: 0: the strategy; a larger number: the seed of a random twin (image tokens at random).
    """

    name: ClassVar[str] = "sid"
    published: ClassVar = {("llava", 32): {"alpha": 0.5, "keep": 0.1736, "layer": "1"}}

    alpha: float = by_model(0.5, low=0, tries=(0.25, 0.5, 1.0, 2.0))
    keep: float = by_model(0.1736, low=0, high=1, tries=(0.0868, 0.1736, 0.5))
    layer: str = layers_option("4%")
    compat: bool = option(False)
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose pictures are no tokens beside the text's."""
        return why_no_image_columns(adapter, "there are no image tokens to rank")

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Add the same prompt with few image tokens as a branch; without a picture return an empty session."""
        combine = Contrast(0.0 if self.keep == 1 else self.alpha, 0.0 if self.compat else self.beta)
        if not has_picture(inputs) or combine.neutral:
            return Session()
        if combine.alpha == 0:
            return Session(combine=combine)
        layers = select_layers(adapter, self, "layer", self.layer)
        self.check("layer", len(layers) == 1, "one layer of this model")
        later = adapter.kinds[min(layers) + 1 :]
        attends = any(kind in adapter.image_kinds for kind in later)
        self.check("layer", attends, "one with layers behind it that attend to image tokens: only they are changed")
        image = adapter.image_mask(inputs["input_ids"])
        if self.compat:
            even = image.sum(dim=-1).unique().numel() == 1
            self.check("compat", even, "False where the prompts of a batch have different numbers of image tokens")
        least = LeastAttended(min(layers), len(adapter.layers), image, self.keep, first_row=self.compat, twin=self.twin)
        return Session(branches=[Branch(dict(inputs), [least])], combine=combine)


class LeastAttended(Op):
    """Masks all but the least attended image tokens in the layers after one, chosen again in every pass."""

    def __init__(
        self, layer: int, depth: int, image: Tensor, keep: float, *, first_row: bool = False, twin: int = 0
    ) -> None:
        """Set the layer and the tokens to rank.

        Args:
            layer: The layer whose attention ranks image tokens.
            depth: Number of decoder layers.
            image: Image positions of the prompts, (prompts, T) bool.
            keep: Share of each prompt's image tokens that stays visible.
            first_row: Whether the first row ranks for all rows, whose image tokens must be as many.
            twin: Seed of a random order of each prompt's image tokens, which stands for their attention; 0: none.
        """
        self.layers = frozenset(range(layer, depth))
        self._layer, self._image, self._first_row = layer, image, first_row
        self._count = (keep * image.sum(dim=-1)).round()
        places = image.cumsum(dim=-1).float()
        self._order = shuffled_columns(places, image, twin, "image tokens") if twin else None
        self._hidden: Tensor | None = None  # (B, R, T) bool, for the current pass

    def rows(self, call: Call) -> LongTensor | None:
        """Return the newest rows, in the layer that ranks."""
        return call.newest if call.layer == self._layer else None

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Choose the image tokens to mask for each row; columns outside a sliding window count as not attended."""
        length = self._image.shape[1]
        first = min(max(0, call.offset), length)
        attended = probs[..., first - call.offset : length - call.offset].mean(dim=1)
        image = call.each(self._image)[:, None].to(probs.device)
        count = call.each(self._count)[:, None, None].to(probs.device)
        attended = nn.functional.pad(attended, (first, 0))
        if self._first_row:
            attended = as_in_first_row(attended, image)
        if self._order is not None:
            attended = call.each(self._order)[:, None].to(probs.device).expand_as(attended)
        self._hidden = mask_most_attended(attended, image, count)

    def bias(self, call: Call) -> Tensor | None:
        """Mask them: for all rows of a prompt; in an answer, for each row its own choice."""
        if call.layer == self._layer or self._hidden is None:
            return None
        length, width = self._image.shape[1], call.key.shape[2]
        before = -min(call.offset, length)
        aligned = nn.functional.pad(self._hidden.float(), (before, width - length - before))
        return _MASKED * aligned[:, None].to(call.device)


def mask_most_attended(attended: Tensor, image: Tensor, count: Tensor) -> Tensor:
    """Mark the image tokens to mask, all but the least attended ones, (B, R, T) bool; of equal ones the later.

    Args:
        attended: Attention of each row to each position, (B, R, T).
        image: Image positions, (B, 1, T) bool.
        count: Number of tokens that stay visible, (B, 1, 1).
    """
    order = attended.masked_fill(~image, torch.inf).argsort(dim=-1, stable=True)
    return image & (order.argsort(dim=-1) >= count)


def as_in_first_row(attended: Tensor, image: Tensor) -> Tensor:
    """Return the first row's attention to its image tokens for those of every row, in order, (B, R, T).

    Args:
        attended: Attention of each row to each position, (B, R, T).
        image: Image positions, (B, 1, T) bool, as many in each row.
    """
    values = attended[0][:, image[0, 0]]  # (R, image tokens)
    everywhere = values.expand(len(attended), *values.shape)
    return torch.zeros_like(attended).masked_scatter(image.expand_as(attended), everywhere)
