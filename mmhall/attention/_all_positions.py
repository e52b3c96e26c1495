"""Attention of a layer in which tokens are missing, laid out at all positions of the sequence for ops.

An op finds every row and column at its position, also where tokens of the prompt were dropped. The column of a dropped
token is masked. Its row sees only itself; but in prompts that keep fewer tokens than another prompt of the batch, rows
of some dropped tokens fill the gap, and these see columns that are left. No such row changes the other rows. An op that
sums over rows leaves them out (`Call.left`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmhall.attention._layout import Layout, gather_rows
from mmhall.attention._passes import Pass

Parts = tuple[Tensor, Tensor, Tensor, Tensor | None]  # queries, keys, values and mask of an attention call


def lay_out(where: Pass, layout: Layout, parts: Parts) -> tuple[Parts, Tensor | None]:
    """Lay out an attention call at all positions.

    Args:
        where: The pass.
        layout: Positions that are left.
        parts: Queries (B, H, R, D), keys and values (B, KV, C, D), and the mask (B|1, 1|H, R, C) of the tokens left.

    Returns:
        The parts at all positions, with a mask; and the positions of the rows, (B, R), None where no row is missing.
    """
    query, key, value, mask = parts
    batch, heads, queries, _ = query.shape
    count, end = key.shape[2], where.end
    at, _ = layout.columns(where, count, batch, key.device)
    places = at + end  # `end` where a column has no position
    if mask is None:
        mask = torch.ones(queries, count, dtype=torch.bool, device=key.device).tril(count - queries)[None, None]
    hidden, shown = (False, True) if mask.dtype == torch.bool else (torch.finfo(mask.dtype).min, 0.0)
    heads = mask.shape[1]
    columns = mask.new_full((batch, heads, queries, end + 1), hidden)
    columns.scatter_(3, places[:, None, None].expand(batch, heads, queries, count), mask.expand(batch, -1, -1, -1))
    columns, rows = columns[..., :end], None
    if where.end == where.queries:  # a pass over prompts, whose rows are the columns
        rows = places.clamp_max(end - 1)
        own = torch.eye(end, dtype=torch.bool, device=key.device).expand(batch, heads, end, end)
        index = rows[:, None, :, None].expand(batch, heads, queries, end)
        columns = torch.where(own, shown, mask.new_full((), hidden)).to(mask.dtype).scatter(2, index, columns)
        query = _scatter(query, places, end)
    return (query, _scatter(key, places, end), _scatter(value, places, end), columns), rows


def pick_rows(output: Tensor, rows: Tensor | None) -> Tensor:
    """Return the head outputs, (B, Q, H, Dv), of the rows that are left, (B, R); None: all."""
    return output if rows is None else gather_rows(output, rows, -4, -3)


def _scatter(states: Tensor, places: Tensor, end: int) -> Tensor:
    """Put the columns of states, (B, heads, C, D), at their places among `end` positions; others hold zeros."""
    _, heads, _, size = states.shape
    zeros = states.new_zeros(heads, end + 1, size)
    rows = zip(states, places, strict=True)  # row by row, as a scatter of single values is slow
    return torch.stack([zeros.index_copy(1, at, own) for own, at in rows])[:, :, :end]
