"""Where columns stand once tokens of prompts were dropped, and masks for what is left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmhall.attention._passes import Pass
from mmhall.errors import CompositionError


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which positions of prompts have columns, the batch being rectangular.

    Attributes:
        order: Positions of each prompt, those dropped first, then those kept, (prompts, positions) 0-based.
        kept: Whether each of them is kept, (prompts, positions) bool.
        width: Columns of a prompt: the last so many of `order`.
        ragged: Whether some prompt keeps fewer; its first columns are then masked.
    """

    order: Tensor
    kept: Tensor
    width: int
    ragged: bool

    @classmethod
    def of(cls, dropped: Tensor) -> Layout:
        """Lay out prompts.

        Args:
            dropped: (prompts, positions) bool.

        Raises:
            CompositionError: It is no such tensor, or it drops the last token of a prompt.
        """
        if dropped.dtype != torch.bool or dropped.ndim != 2:
            got = f"{dropped.dtype} of shape {tuple(dropped.shape)}"
            raise CompositionError(f"which tokens to drop is told as (prompts, positions) of torch.bool, got {got}")
        if bool(dropped[:, -1].any()):
            raise CompositionError("the last token of a prompt cannot be dropped: the answer is predicted from it")
        order = (~dropped).to(torch.uint8).argsort(dim=1, stable=True)
        counts = (~dropped).sum(dim=1).tolist()
        return cls(order, ~dropped.gather(1, order), max(counts), min(counts) < max(counts))

    @property
    def prompt(self) -> int:
        """Positions of a prompt, padding included."""
        return self.order.shape[1]

    @property
    def whole(self) -> bool:
        """Whether nothing is dropped."""
        return self.width == self.prompt and not self.ragged

    def columns(self, where: Pass, count: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return what the last `count` columns hold once a pass is made.

        Returns:
            Their positions counted from the end, which is 0, (rows, count); whether they may be seen, (rows, count).

        Raises:
            CompositionError: The pass reads other prompts.
        """
        owners, more = where.frame.owners, where.end - self.prompt
        other = where.block.prompt not in (None, self.prompt)
        if other or more < 0 or (len(self.order) if owners is None else len(owners)) != rows:
            raise CompositionError(
                f"which tokens to drop was told of {len(self.order)} prompts of {self.prompt} positions, and the model "
                f"reads {rows} rows of {where.block.prompt or where.end}"
            )
        order, kept = (part if owners is None else part[owners.to(part.device)] for part in (self.order, self.kept))
        later = torch.arange(self.prompt, where.end, device=order.device).expand(rows, -1)
        at = torch.cat([order, later], dim=1)[:, -count:] - where.end
        seen = nn.functional.pad(kept, (0, more), value=True)[:, -count:]
        before = max(0, count - where.end)  # columns of longer prompts that these rows were joined with
        return nn.functional.pad(at, (before, 0)).to(device), nn.functional.pad(seen, (before, 0)).to(device)


def cut_mask(
    mask: Tensor | None, at: Tensor, seen: Tensor | None, rows: Tensor | None = None, queries: int = 1
) -> Tensor | None:
    """Cut a mask.

    Args:
        mask: None (causal), or bool or additive float, (B|1, 1|H, Q, K).
        at: Positions of the columns that are left, counted from the end, (B, C).
        seen: Whether they may be seen, (B, C); None: all.
        rows: Which rows are left, (B, R); None: all.
        queries: Q.

    Returns:
        The same for these rows and columns.
    """
    count = at.shape[1]
    if mask is None:
        if seen is None:
            return None
        left = queries if rows is None else rows.shape[1]
        before = torch.ones(left, count, dtype=torch.bool, device=seen.device).tril(count - left)
        return (before & seen[:, None])[:, None]
    columns = at + mask.shape[-1]
    inside = columns >= 0 if seen is None else (columns >= 0) & seen  # a sliding layer's mask begins later
    mask = mask if rows is None else picked(mask, rows, -4, -2)
    mask = picked(mask, columns.clamp_min(0), -4, -1)
    inside = inside[:, None, None].to(mask.device)
    return mask & inside if mask.dtype == torch.bool else mask.masked_fill(~inside, torch.finfo(mask.dtype).min)


def picked(tensor: Tensor, index: Tensor, rows: int, along: int) -> Tensor:
    """Pick places along an axis, for each row others.

    Args:
        tensor: Whatever has an axis of rows, B or 1, and one to pick from.
        index: (B, N) 0-based.
        rows: The axis of rows.
        along: The axis to pick from.
    """
    shape = list(tensor.shape)
    shape[rows] = len(index)
    whole = tensor.expand(shape)
    shape[along] = index.shape[1]
    places = [len(index) if axis == rows else index.shape[1] if axis == along else 1 for axis in range(-tensor.ndim, 0)]
    return whole.gather(along, index.to(tensor.device).view(places).expand(shape))
