"""Attention of a few query rows, by hand, and nothing of size (Q, K) more than asked."""

from __future__ import annotations

import torch
from torch import LongTensor, Tensor

from mmhall.attention.plan import Call


def scores_of(call: Call, rows: LongTensor) -> Tensor:
    """Return masked pre-softmax scores of some query rows, (B, H, R, K) float32.

    Masked columns hold float32's minimum, never -inf: a fully masked row would turn to NaN.
    """
    query = call.query[:, :, rows].float()
    batch, heads, count, size = query.shape
    groups = call.key.shape[1]
    grouped = query.reshape(batch, groups, heads // groups * count, size)
    scores = (grouped @ call.key.float().transpose(-1, -2)).view(batch, heads, count, -1) * call.scaling
    lowest = torch.finfo(torch.float32).min
    mask = row_mask(call, rows)
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, lowest)
    return (scores + mask.float()).clamp_min(lowest)


def output_of(call: Call, probs: Tensor) -> Tensor:
    """Weight the values with attention rows: (B, H, R, K) to head outputs (B, R, H, Dv)."""
    batch, heads, count, columns = probs.shape
    groups = call.value.shape[1]
    grouped = probs.to(call.value.dtype).reshape(batch, groups, heads // groups * count, columns)
    return (grouped @ call.value).view(batch, heads, count, -1).transpose(1, 2)


def row_mask(call: Call, rows: LongTensor) -> Tensor:
    """Return the mask of some rows; the causal one where the call carries none."""
    if call.mask is not None:
        return call.mask[..., rows, : call.key.shape[2]]
    return causal(call)[..., rows, :]


def causal(call: Call) -> Tensor:
    """Return the causal mask of the call's queries, which end at its last key, (1, 1, Q, K) bool."""
    queries, keys = call.query.shape[2], call.key.shape[2]
    order = torch.arange(keys, device=call.query.device)
    return (order[None, :] <= order[keys - queries :, None])[None, None]
