"""Ops that choose which image tokens a prompt keeps; `mmhall.attention.Drop` drops the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmhall.adapters import Adapter
from mmhall.attention import Drop, Op
from mmhall.errors import ModelError


class KeepImageTokens(Op):
    """The base of ops that choose which image tokens are kept from a layer on.

    A subclass reads something of the prompts and sets `_kept`, the choice.
    """

    def __init__(self, image: Tensor, first: int) -> None:
        """Set the tokens to choose from.

        Args:
            image: Image positions of the prompts, (prompts, T) bool.
            first: 0-based; first layer without the tokens that are not kept.
        """
        self._image, self._first = image, first
        self._kept: Tensor | None = None

    def dropped(self) -> Tensor:
        """Return the image tokens that are not kept, (prompts, T) bool."""
        assert self._kept is not None, "the prompts were not read"
        return self._image & ~self._kept

    def drop(self, *, contiguous: bool = False) -> Drop:
        """Return the op that drops them; see `Drop` for `contiguous`."""
        return Drop(self._first, self.dropped, contiguous=contiguous)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return which image tokens are kept (1) or dropped (0), and the share that each layer holds."""
        if self._kept is None:
            return {}
        kept = self._kept[0][self._image[0]].float().cpu()
        share = torch.where(torch.arange(depth) >= self._first, kept.mean(), 1.0)
        return {"image tokens kept": kept, "share of image tokens kept": share[:, None]}


def keep_highest(scores: Tensor, among: Tensor, counts: Tensor | Sequence[int]) -> Tensor:
    """Mark the tokens with the highest scores of each row, (rows, T) bool; of equal ones the earlier.

    Args:
        scores: (rows, T).
        among: Tokens that may be kept, (rows, T) bool; where a row has fewer than its count, all of them are kept.
        counts: Number of tokens to keep of each row, (rows,).
    """
    order = scores.float().masked_fill(~among, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    counts = torch.as_tensor(counts, device=scores.device)
    return among & (order.argsort(dim=-1) < counts[:, None])


def kept_count(share: float, total: Tensor) -> Tensor:
    """Return how many of `total` tokens are a share of them, rounded, at least one, in the shape of `total`."""
    return (share * total).round().clamp_min(1).long()


def why_no_drop(adapter: Adapter, layer: int, *, contiguous: bool = False) -> str | None:
    """Return why tokens cannot be dropped from a 0-based layer of a model on; None: they can. See `Drop`."""
    try:
        adapter.plan([Drop(layer, torch.tensor([[True, False]]), contiguous=contiguous)])
    except ModelError as error:
        return str(error)
    return None
