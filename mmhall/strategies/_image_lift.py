"""Base classes of strategies that edit attention rows behind a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter
from mmhall.attention import Call, Op
from mmhall.strategies import Strategy


def why_no_image_columns(adapter: Adapter, lack: str) -> str | None:
    """Return why a strategy cannot act where a model's pictures are no columns beside the text's; None: they are.

    Args:
        adapter: The model.
        lack: What the strategy misses there, such as "there are no image columns to weigh".
    """
    if adapter.image_in_sequence:
        return None
    return f"layers of their own attend to its pictures (cross-attention), so {lack}"


@dataclass(frozen=True)
class RowStrategy(Strategy):
    """The base of strategies that edit how much attention rows give to the picture and to the text after it.

    It claims these rows, so that two such strategies cannot be combined, and refuses models without image columns.
    """

    claims: ClassVar[frozenset[str]] = frozenset({"the rows of attention"})

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose pictures are no columns beside the text's."""
        return why_no_image_columns(adapter, "there are no image columns to weigh")


class Steer(Op):
    """The base of ops that edit the newest row, or all rows behind the picture.

    Each prompt is read by itself. A subclass that reads and edits no other rows says from which on (`Op.first_row`), so
    that questions about one picture share what stands before.
    """

    writes = True

    def __init__(self, layers: frozenset[int], behind: Tensor | None = None) -> None:
        """Choose the rows to edit.

        Args:
            layers: 0-based decoder layers.
            behind: Prompt positions to edit besides the newest row, (B, T) bool; None: no others.
        """
        self.layers = layers
        self._behind = behind
        self._positions = behind.any(dim=0).nonzero()[:, 0] if behind is not None else None

    def rows(self, call: Call) -> LongTensor | None:
        """Return the newest row; at prefill also those behind the picture."""
        if self._positions is None or not call.prefill:
            return call.newest
        return call.rows_at(self._positions)

    def row_mask(self, call: Call, rows: LongTensor) -> Tensor | None:
        """Mark the rows to edit for each prompt, (B, 1, R, 1) float32; None: all."""
        if self._behind is None or not call.prefill:
            return None
        behind = call.each(self._behind[:, (rows + call.start).to(self._behind.device)])
        return behind[:, None, :, None].to(call.query.device, torch.float32)


class RaiseColumns(Steer):
    """Raises the newest row's scores of some columns by a share of their size: s_k += strength_k |s_k|."""

    first_row = -1

    def __init__(self, layers: frozenset[int], strength: Callable[[Call], Tensor]) -> None:
        """Set the strength of each column.

        Args:
            layers: 0-based decoder layers.
            strength: Returns the strengths as columns of a call, (B, 1, 1, K), such as `mmhall.attention.Columns`.
        """
        super().__init__(layers)
        self._strength = strength

    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        """Raise the scores; columns that are masked stay masked."""
        return torch.addcmul(scores, scores.abs(), self._strength(call))


def top_half(values: Tensor) -> Tensor:
    """Mark the heads with the larger values, (B, H, R, 1) to the same shape, float32; of an odd number one less."""
    chosen = values.topk(values.shape[1] // 2, dim=1).indices
    return torch.zeros_like(values).scatter(1, chosen, 1.0)
