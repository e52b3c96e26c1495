"""Attention with ops: SDPA with biases, and explicit computation of the rows that ops read or edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import LongTensor, Tensor

from mmhall.attention._ops import Call, Op
from mmhall.attention._rows import BLOCK, apply_mask, causal_mask, output_of, scores_of, uncast


def attend_with_ops(call: Call, ops: Sequence[Op], plain: Callable[..., Any]) -> Tensor:
    """Compute attention with ops: SDPA, `plain`, with their biases, and explicitly the rows that ops edit.

    Rows that ops only read are computed separately and do not change the output, to the last bit.
    """
    with uncast(call.query):
        for op in ops:
            mask = op.remask(call)
            call = call if mask is None else replace(call, mask=mask)
        biases = [bias for op in ops if (bias := op.bias(call)) is not None]
        op_rows = [(op, rows) for op in ops if (rows := op.rows(call)) is not None and rows.numel()]
        writes = any(op.writes for op, _ in op_rows)
        step = not call.prefill and all(len(rows) == call.query.shape[2] for _, rows in op_rows)
        probs = _compute_step_rows(call, [op for op, _ in op_rows], biases, op_rows[0][1]) if op_rows and step else None
        mask = _biased_mask(call, biases)
    if probs is not None and writes:  # the edited rows are all rows: SDPA would compute them twice
        with uncast(call.query):
            output = output_of(call, probs)
    else:
        output = plain(call.query, call.key, call.value, mask)[0]
    with uncast(call.query):
        if op_rows and not step:
            output = _edit_prompt_rows(output, call, op_rows, biases)
        for op in ops:
            output = op.edit_output(call, output)
    return output


def _compute_step_rows(call: Call, ops: Sequence[Op], biases: Sequence[Tensor], rows: LongTensor) -> Tensor:
    """Compute the weights of all rows of a step, usually one, with the edits of ops, (B, H, Q, K)."""
    scores = sum(biases, start=scores_of(call))
    for op in ops:
        scores = op.edit_scores(call, rows, scores)
    if any(op.writes for op in ops):
        scores = apply_mask(call, scores, rows)
    probs = scores.softmax(dim=-1)
    for op in ops:
        probs = op.edit_probs(call, rows, probs)
    for op in ops:
        op.see(call, rows, probs)
    return probs


def _edit_prompt_rows(
    output: Tensor, call: Call, op_rows: Sequence[tuple[Op, LongTensor]], biases: Sequence[Tensor]
) -> Tensor:
    """Replace the head outputs of rows that ops edit, and pass the final weights to all ops."""
    writers = [(op, rows) for op, rows in op_rows if op.writes]
    readers = [(op, rows) for op, rows in op_rows if not op.writes]
    read = _union(readers) if readers else None
    kept = []  # weights of edited rows that readers see
    for block in _blocks(writers):
        own = _within(writers, block)
        probs = _compute_rows(call, block, biases, own)
        output = output.index_copy(1, block, output_of(call, probs).to(output.dtype))
        _show_weights(call, own, block, probs)
        if read is not None:
            kept.append(probs[:, :, torch.isin(block, read)])
    if read is not None:
        probs = _compute_rows(call, read, biases)
        if kept:
            both = torch.isin(read, _union(writers)).nonzero()[:, 0]
            probs = probs.index_copy(2, both, torch.cat(kept, dim=2))
        _show_weights(call, readers, read, probs)
    return output


def _blocks(writers: Sequence[tuple[Op, LongTensor]]) -> Sequence[LongTensor]:
    """Return the rows that ops edit, in ascending order: in blocks if all these ops allow it, else at once."""
    if not writers:
        return ()
    edited = _union(writers)
    blocks: Sequence[LongTensor] = edited.split(BLOCK)  # type: ignore[assignment]
    return blocks if all(op.by_blocks for op, _ in writers) else (edited,)


def _within(op_rows: Sequence[tuple[Op, LongTensor]], block: LongTensor) -> list[tuple[Op, LongTensor]]:
    """Return the ops with those of their rows that are in a block, without ops that have none there."""
    parts = [(op, rows[torch.isin(rows, block)]) for op, rows in op_rows]
    return [(op, rows) for op, rows in parts if len(rows)]  # type: ignore[misc]


def _union(op_rows: Sequence[tuple[Op, LongTensor]]) -> LongTensor:
    rows: LongTensor = torch.unique(torch.cat([rows for _, rows in op_rows]))
    return rows


def _compute_rows(
    call: Call, rows: LongTensor, biases: Sequence[Tensor], writers: Sequence[tuple[Op, LongTensor]] = ()
) -> Tensor:
    """Compute the weights of some rows, in ascending order, with the edits of ops, (B, H, R, K)."""
    indexed = [(op, torch.searchsorted(rows, chosen)) for op, chosen in writers]
    scores = scores_of(call, rows)
    for bias in biases:
        scores = scores + (bias if bias.shape[2] == 1 else bias[:, :, rows])
    for op, index in indexed:
        chosen: LongTensor = rows[index]  # type: ignore[assignment]
        scores = scores.index_copy(2, index, op.edit_scores(call, chosen, scores[:, :, index]))
    if indexed:
        scores = apply_mask(call, scores, rows)
    probs = scores.softmax(dim=-1)
    for op, index in indexed:
        chosen = rows[index]  # type: ignore[assignment]
        probs = probs.index_copy(2, index, op.edit_probs(call, chosen, probs[:, :, index]))
    return probs


def _show_weights(call: Call, op_rows: Sequence[tuple[Op, LongTensor]], rows: LongTensor, probs: Tensor) -> None:
    """Pass each op the final weights of its rows; `probs` holds those of all `rows`, (B, H, R, K)."""
    for op, chosen in op_rows:
        op.see(call, chosen, probs[:, :, torch.searchsorted(rows, chosen)])


def _biased_mask(call: Call, biases: Sequence[Tensor]) -> Tensor | None:
    """Add biases to the mask for SDPA; masked columns stay at the minimum of the dtype."""
    if not biases:
        return call.mask
    total = sum(biases[1:], start=biases[0])
    mask = call.mask
    if mask is None and call.causal:
        mask = causal_mask(call, torch.arange(call.query.shape[2], device=call.query.device))
    if mask is None:
        return total.to(call.query.dtype)
    lowest = torch.finfo(call.query.dtype).min
    if mask.dtype == torch.bool:
        return torch.where(mask, total.to(call.query.dtype).clamp_min(lowest), lowest)
    return (mask.float() + total).clamp_min(lowest).to(call.query.dtype)
