"""Positions of the key columns after prompt tokens were dropped, and masks for the columns that are left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmhall.attention._passes import Pass
from mmhall.errors import CompositionError


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Positions of prompts that have key columns, in a rectangular batch.

    Attributes:
        order: Positions of each prompt, dropped ones first, then kept ones, (prompts, positions) 0-based.
        kept: Whether each position in `order` is kept, (prompts, positions) bool.
        width: Number of columns of a prompt: the last `width` positions of `order`.
        ragged: Whether some prompt keeps fewer positions than `width`; its first columns are masked.
    """

    order: Tensor
    kept: Tensor
    width: int
    ragged: bool

    @classmethod
    def of(cls, dropped: Tensor) -> Layout:
        """Return the layout of prompts.

        Args:
            dropped: Tokens to drop, (prompts, positions) bool.

        Raises:
            CompositionError: The tensor has another dtype or shape, or drops the last token of a prompt.
        """
        if dropped.dtype != torch.bool or dropped.ndim != 2:
            got = f"{dropped.dtype} of shape {tuple(dropped.shape)}"
            raise CompositionError(f"tokens to drop must be a torch.bool tensor (prompts, positions), got {got}")
        if bool(dropped[:, -1].any()):
            raise CompositionError("the last token of a prompt cannot be dropped: the answer is predicted from it")
        order = (~dropped).to(torch.uint8).argsort(dim=1, stable=True)
        counts = (~dropped).sum(dim=1).tolist()
        return cls(order, ~dropped.gather(1, order), max(counts), min(counts) < max(counts))

    @property
    def prompt(self) -> int:
        """Length of a prompt in positions, padding included."""
        return self.order.shape[1]

    @property
    def whole(self) -> bool:
        """Whether no token is dropped."""
        return self.width == self.prompt and not self.ragged

    @property
    def left(self) -> Tensor:
        """Which positions are kept, in their order, (prompts, positions) bool."""
        return torch.zeros_like(self.kept).scatter(1, self.order, self.kept)

    def shifts(self, where: Pass, rows: int, device: torch.device) -> Tensor:
        """Return the number of dropped tokens before each token of a pass, (rows, tokens of the pass)."""
        owners = where.frame.owners
        left = self.left if owners is None else self.left[owners.to(self.order.device)]
        before = (~left).cumsum(dim=1)
        later = before[:, -1:].expand(rows, where.end - self.prompt)  # the last token of a prompt is kept
        return torch.cat([before, later], dim=1)[:, -where.queries :].to(device)

    def columns(self, where: Pass, count: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the positions of the last `count` columns after a pass.

        Returns:
            Positions relative to the end of the sequence, (rows, count); whether they are visible, (rows, count).

        Raises:
            CompositionError: The pass reads other prompts.
        """
        owners, more = where.frame.owners, where.end - self.prompt
        other = where.block.prompt not in (None, self.prompt)
        if other or more < 0 or (len(self.order) if owners is None else len(owners)) != rows:
            raise CompositionError(
                f"the tokens to drop are those of {len(self.order)} prompts of {self.prompt} positions, but the model "
                f"reads {rows} rows of {where.block.prompt or where.end} positions"
            )
        order, kept = (part if owners is None else part[owners.to(part.device)] for part in (self.order, self.kept))
        later = torch.arange(self.prompt, where.end, device=order.device).expand(rows, -1)
        at = torch.cat([order, later], dim=1)[:, -count:] - where.end
        visible = nn.functional.pad(kept, (0, more), value=True)[:, -count:]
        before = max(0, count - where.end)  # columns of longer prompts that these rows were joined with
        at, visible = nn.functional.pad(at, (before, 0), value=-1), nn.functional.pad(visible, (before, 0))
        return at.to(device), visible.to(device)


def cut_mask(
    mask: Tensor | None, at: Tensor, visible: Tensor | None, rows: Tensor | None = None, queries: int = 1
) -> Tensor | None:
    """Reduce a mask to some rows and columns.

    Args:
        mask: None (causal), or bool or additive float, (B|1, 1|H, Q, K).
        at: Positions of the columns that are left, relative to the end of the sequence, (B, C).
        visible: Whether these columns are visible, (B, C); None: all are.
        rows: Rows that are left, (B, R); None: all.
        queries: Q.

    Returns:
        The mask of these rows and columns.
    """
    count = at.shape[1]
    if mask is None:
        if visible is None:
            return None
        left = queries if rows is None else rows.shape[1]
        before = torch.ones(left, count, dtype=torch.bool, device=visible.device).tril(count - left)
        return (before & visible[:, None])[:, None]
    columns = at + mask.shape[-1]
    inside = columns >= 0 if visible is None else (columns >= 0) & visible  # the mask of a sliding layer begins later
    mask = mask if rows is None else gather_rows(mask, rows, -4, -2)
    mask = gather_rows(mask, columns.clamp_min(0), -4, -1)
    inside = inside[:, None, None].to(mask.device)
    return mask & inside if mask.dtype == torch.bool else mask.masked_fill(~inside, torch.finfo(mask.dtype).min)


def gather_rows(tensor: Tensor, index: Tensor, rows: int, along: int) -> Tensor:
    """Gather along an axis, with separate indices for each row.

    Args:
        tensor: Tensor with an axis of rows, of size B or 1, and an axis to gather along.
        index: (B, N) 0-based.
        rows: Axis of rows.
        along: Axis to gather along.
    """
    shape = list(tensor.shape)
    shape[rows] = len(index)
    whole = tensor.expand(shape)
    shape[along] = index.shape[1]
    places = [len(index) if axis == rows else index.shape[1] if axis == along else 1 for axis in range(-tensor.ndim, 0)]
    return whole.gather(along, index.to(tensor.device).view(places).expand(shape))
