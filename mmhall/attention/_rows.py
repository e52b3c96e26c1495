"""Explicit attention for a few query rows, without a full (Q, K) matrix."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import LongTensor, Tensor

from mmhall.attention._ops import Call

BLOCK = 256  # rows whose weights are held at once


def uncast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Disable autocast inside this context, so that tensors keep their dtypes."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def scores_of(call: Call, rows: LongTensor | None = None) -> Tensor:
    """Compute masked scores of some query rows before softmax, by default of all rows, (B, H, R, K) float32.

    Masked columns hold the minimum of float32, not -inf, which would turn a fully masked row into NaN.
    """
    query = (call.query if rows is None else call.query[:, :, rows]).float()
    batch, heads, count, size = query.shape
    groups = call.key.shape[1]
    grouped = query.reshape(batch, groups, heads // groups * count, size)
    scores = (grouped @ call.key.float().transpose(-1, -2)).view(batch, heads, count, -1) * call.scaling
    mask = row_mask(call, rows)
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask.float()
    return apply_mask(call, scores, rows)


def apply_mask(call: Call, scores: Tensor, rows: LongTensor | None) -> Tensor:
    """Set the masked columns of some rows to the minimum of float32."""
    visible = visible_columns(call, rows)
    return scores if visible is None else scores.masked_fill(~visible, torch.finfo(torch.float32).min)


def visible_columns(call: Call, rows: LongTensor | None) -> Tensor | None:
    """Return which columns some rows see, by default all rows, (B|1, 1|H, R, K) bool; None: every column."""
    mask = row_mask(call, rows)
    return mask if mask is None or mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def output_of(call: Call, probs: Tensor) -> Tensor:
    """Multiply attention weights, (B, H, R, K), with the values; return head outputs, (B, R, H, Dv)."""
    batch, heads, count, columns = probs.shape
    groups = call.value.shape[1]
    grouped = probs.to(call.value.dtype).reshape(batch, groups, heads // groups * count, columns)
    return (grouped @ call.value).view(batch, heads, count, -1).transpose(1, 2)


def row_mask(call: Call, rows: LongTensor | None) -> Tensor | None:
    """Return the mask of some rows, by default of all, (B|1, 1|H, R, K), or None where rows see every column."""
    if call.mask is not None:
        return call.mask if rows is None else call.mask[..., rows, :]
    if not call.causal:
        return None
    return causal_mask(call, torch.arange(call.query.shape[2], device=call.query.device) if rows is None else rows)


def causal_mask(call: Call, rows: Tensor) -> Tensor:
    """Return the causal mask of some query rows of a call, (1, 1, R, K) bool."""
    columns = torch.arange(call.key.shape[2], device=call.query.device) + call.offset
    return (columns[None, :] <= rows[:, None] + call.start)[None, None]


def first_marked(positions: Tensor) -> Tensor:
    """Return the first marked position of each prompt, (prompts, T) bool to (prompts,); the last where none is."""
    return torch.nn.functional.pad(positions[:, :-1], (0, 1), value=True).int().argmax(dim=1)


def column_means(call: Call, attended: Tensor | None = None) -> Tensor:
    """Return the mean attention that each column gets from the rows that see it, (B, H, K) float32.

    The weights are those of the layer without ops. They are computed for a block of rows at a time: no (Q, K) matrix
    is held. Columns that no row sees have 0. Rows [1], [.5, .5] and [.2, .4, .4] give .5667, .45 and .4.

    Args:
        call: The attention call.
        attended: Rows that count, (B, Q) bool; None: all.
    """
    total = torch.zeros(*call.query.shape[:2], call.key.shape[2], device=call.device)
    count = torch.zeros(1, 1, call.key.shape[2], device=call.device)
    for part in torch.arange(call.query.shape[2], device=call.device).split(BLOCK):
        rows: LongTensor = part  # type: ignore[assignment]
        visible = visible_columns(call, rows)
        counts = torch.ones(1, 1, len(rows), 1, device=call.device) if visible is None else visible.float()
        if attended is not None:
            counts = counts * attended[:, None, rows.to(attended.device), None].to(call.device, torch.float32)
        total += (scores_of(call, rows).softmax(dim=-1) * counts).sum(dim=2)
        count = count + counts.expand(-1, -1, -1, call.key.shape[2]).sum(dim=2)
    return total / count.clamp_min(1.0)
