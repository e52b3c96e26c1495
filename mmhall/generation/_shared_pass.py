"""The passes over prompts with shared prefixes: each prefix once without ops, then the ends of the prompts with them.

Where whole prompts are equal, each is read once and its cache copied.

The ends are read in one pass for each length. To ops they are the last rows of the batch's prompts: positions are
counted with the padding that the whole prompts have, whatever lengths the prefixes have in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from mmhall.attention import Block, Exits, Frame, Memory, Plan, follow_frames
from mmhall.generation._lockstep import lockstep_reference
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._state import DecodeState, Group, join, prefill


@dataclass(frozen=True, slots=True)
class ReadPrompts:
    """A batch of prompts that was read, in one or several states.

    Attributes:
        states: States of some prompts each, with one block.
        places: 0-based prompt of each of their rows, (N,).
    """

    states: Sequence[DecodeState]
    places: Tensor

    @classmethod
    def of(cls, state: DecodeState) -> ReadPrompts:
        """Return a batch whose prompts were read in order."""
        return cls([state], torch.arange(len(state.ids), device=state.ids.device))


def prefill_shared(
    source: PlannedBatch,
    exits: Exits | None = None,
    *,
    past: bool = False,
    references: Sequence[PlannedBatch] = (),
) -> ReadPrompts:
    """Read a batch of prompts, each shared prefix once.

    Args:
        source: The prompts.
        exits: As in `prefill`.
        past: As in `prefill`.
        references: Prompts read in lock step: all of them, or those of each pass over ends; none: nothing compares.
    """
    prepared, shared = source.prepared, source.prepared.shared
    if shared is None:
        with _followed(source.plan, source.frame, next(iter(references), None)):
            return ReadPrompts.of(prefill(source, exits, past=past))
    if shared.whole:
        once = replace(source, prepared=shared.prepared)
        with follow_frames(once.frame):
            read = prefill(once, exits, past=past)
        return ReadPrompts.of(read.taken(read.groups[0], shared.of))
    prefixes = PlannedBatch(shared.prepared, number=source.number)
    with follow_frames(prefixes.frame):
        first = prefill(prefixes, past=past)
    _continue_positions(first)
    parts, memories = shared.parts(), list[Memory]()
    beside: Sequence[PlannedBatch | None] = references or [None] * len(parts)
    states = [first.taken(first.groups[0], shared.of[rows]) for rows, _ in parts]
    for state, (rows, tokens), reference in zip(states, parts, beside, strict=True):
        padding = shared.prepared.length + tokens.shape[1] - prepared.length
        block = Block(source.plan, prepared.length, padding, source.number)
        state.groups = [Group((block,), len(rows), exits)]
        memories.append(source.memory.select(rows, len(shared.of)))
        with _followed(source.plan, Frame((block,), owners=rows, memory=memories[-1]), reference):
            state.read(tokens)
    places = torch.cat([rows for rows, _ in parts])
    remembered = Memory.join(memories).select(places.argsort(), len(places))
    for name in remembered:
        source.memory[name] = remembered[name]
    return ReadPrompts(states, places)


def join_prompts(batches: Sequence[ReadPrompts]) -> list[DecodeState]:
    """Join batches of N prompts into one state, or each into one where their caches cannot be joined.

    A state has one group with a block for each of its batches, its rows in the order of the prompts.
    """
    size = len(batches[0].places)
    states = [state for batch in batches for state in batch.states]
    order = torch.cat([batch.places + number * size for number, batch in enumerate(batches)])
    joined = join(states, order.tolist())
    if len(joined) == len(states) > 1:
        return [state for batch in batches for state in join_prompts([batch])] if len(batches) > 1 else joined
    (state,) = joined
    if len(states) > 1:
        firsts = list(accumulate([0, *(len(batch.states) for batch in batches[:-1])]))
        blocks = tuple(state.groups[first].blocks[0] for first in firsts)  # those of a batch end at the same column
        main = state.groups[: len(batches[0].states)]
        early = {key: torch.cat([group.early[key] for group in main]) for key in main[0].early}
        state.groups = [Group(blocks, size, main[0].exits, early)]
    if len(states) > len(batches):
        index = order.argsort()
        state.pick(index, [index[:size]])
    return [state]


@contextmanager
def _followed(plan: Plan | None, frame: Frame, reference: PlannedBatch | None) -> Iterator[None]:
    """Let a pass over prompts follow a frame, beside those in lock step with it, whose ops have the same memory."""
    source = None if reference is None else replace(reference, memory=frame.memory)
    with lockstep_reference(plan, source) as compared, follow_frames(replace(frame, reference=compared)):
        yield


def _continue_positions(state: DecodeState) -> None:
    """Let positions in time, row and column go on from the largest one, as they do behind a picture."""
    ids = state.kwargs.get("position_ids")
    if ids is not None and ids.ndim == 3:
        state.kwargs["position_ids"] = ids = ids.clone()
        ids[-3:, :, -1] = ids[-3:].amax(dim=(0, 2))  # before them, some families count the tokens
