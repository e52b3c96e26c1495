"""Passes over the rows of several batches at once, after these were joined; see `DecodeBatch`.

Every function takes all batches that share their rows' cache, in the order in which they were joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmhall._transformers import caches
from mmhall.attention import few_rows, follow_frames
from mmhall.generation._state import DecodeState, Group, join

if TYPE_CHECKING:
    from mmhall.generation._branches import DecodeBatch


def join_batches(batches: Sequence[DecodeBatch]) -> bool:
    """Join batches into one cache, shorter ones padded on the left; return whether that is possible.

    Where it is not (a model whose caches cannot be joined, branches with caches of their own, prompts that another part
    of the model decodes) nothing changes.
    """
    states = list({id(state): state for batch in batches for state, _ in batch.parts}.values())
    if any(len(batch.parts) > 1 or batch.parts[0][0].model is not states[0].model for batch in batches):
        return False
    if not caches.can_join([state.cache for state in states]):
        return False
    (joined,) = join(states)
    for batch in batches:
        batch.parts = [(joined, batch.parts[0][1])]
    return True


def merge_batches(batches: Sequence[DecodeBatch]) -> bool:
    """Add the rows of batches with the same plans, at the same length, to the first batch, in order, if possible.

    The others cannot be used any more. Return whether it is possible, as in `join_batches`.
    """
    if not join_batches(batches):
        return False
    first = batches[0]
    ((state, _),) = first.parts
    first.parts = [(state, state.merge())]
    first.adopt(batches[1:])
    return True


def step_together(batches: Sequence[DecodeBatch], tokens: Sequence[Tensor]) -> None:
    """Feed each main row and its branches the next token, (N,) for each batch."""
    for state, groups in _shared(batches):
        frames = [batch.frame(group) for batch, group in zip(batches, groups, strict=True)]
        stacked = any(len(group.blocks) > 1 or group.exits is not None for group in groups)
        with follow_frames(*frames), few_rows(stacked):
            state.read(state.spread(tokens)[:, None])


def split_together(batches: Sequence[DecodeBatch], tokens: Sequence[Tensor]) -> None:
    """Feed each main row and its branches several candidate tokens, (N, candidates) for each batch; as many for all."""
    lengths = []
    for state, groups in _shared(batches):
        frames = [
            batch.frame(group, answer=True, candidates=True, memory=batch.memory.read_only())
            for batch, group in zip(batches, groups, strict=True)
        ]
        with follow_frames(*frames):
            lengths.append(state.split(state.spread(tokens)))
    for batch, own in zip(batches, tokens, strict=True):
        batch.candidates, batch.lengths = own, lengths


def keep_together(
    batches: Sequence[DecodeBatch],
    rows: Sequence[Tensor],
    candidates: Sequence[Tensor] | None,
    differing: int | None = None,
) -> None:
    """Continue some main rows of each batch after `split_together`.

    Args:
        batches: The batches.
        rows: 0-based rows of each, (N,); may repeat.
        candidates: 0-based candidate of each of these rows, (N,); None: drop all, as if there had been no split.
        differing: As in `DecodeBatch.keep`.
    """
    sizes = [batch.size for batch in batches]
    if any(len(own) != size for own, size in zip(rows, sizes, strict=True)):
        differing = None
    tokens = (
        []
        if candidates is None
        else [batch.candidates[own, picked] for batch, own, picked in zip(batches, rows, candidates, strict=True)]
    )
    for (state, _), lengths in zip(_shared(batches), batches[0].lengths, strict=True):
        state.keep(lengths, rows, candidates, tokens, differing)
    for batch, own, size in zip(batches, rows, sizes, strict=True):
        batch.track(own, size)


def select_together(batches: Sequence[DecodeBatch], rows: Sequence[Tensor | None]) -> None:
    """Keep, repeat or reorder main rows of each batch and their branches, by 0-based index.

    Args:
        batches: The batches; one that keeps no row has left, and cannot be used any more.
        rows: (N,) for each batch; None: all, as they are.
    """
    sizes = [batch.size for batch in batches]
    for state, groups in _shared(batches):
        device = state.ids.device
        every = (torch.arange(group.size, device=device) for group in groups)
        state.select([one if own is None else own for own, one in zip(rows, every, strict=True)])
    for batch, own, size in zip(batches, rows, sizes, strict=True):
        if own is not None:
            batch.track(own, size)


def _shared(batches: Sequence[DecodeBatch]) -> list[tuple[DecodeState, list[Group]]]:
    """Return each state of the batches with the group of each of them, which are all of its groups."""
    shared = []
    for number, (state, _) in enumerate(batches[0].parts):
        groups = [batch.parts[number][1] for batch in batches]
        assert list(map(id, groups)) == list(map(id, state.groups))
        shared.append((state, groups))
    return shared
