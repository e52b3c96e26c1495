"""Decode the main rows and their branches together, and the rows of several batches in one pass.

Each branch reads its prompt by itself, so that a short prompt stays short. Then the caches are padded on the left and
joined, and each further step is one forward pass of all rows: first the main rows, then each branch's, in the same
order. Each block of rows has a plan of its own. Where caches cannot be joined (a cross-attention model with and without
its picture) the branches step one after the other.

Batches that were read one after the other can be joined in the same way, and then step together (`_together`): each
keeps its plans, memory and combination, so that a prompt is decoded as in its batch alone.

One pass can read several candidate tokens for the next position of each row; they do not attend to each other. One of
them is then kept for each row that goes on.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmhall._transformers import cache_sizes, caches
from mmhall._transformers.cache_sizes import LayerSize
from mmhall.attention import Exit, Exits, Frame, Memory, Plan, follow_frames
from mmhall.generation._candidates import combine_scores
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._shared_pass import ReadPrompts, join_prompts, prefill_shared
from mmhall.generation._state import Group, prefill
from mmhall.generation._together import keep_together, select_together, split_together, step_together
from mmhall.strategies import Step

if TYPE_CHECKING:
    from mmhall.strategies import Combine


class DecodeBatch:
    """N main rows with the rows of their branches, decoded together.

    Attributes:
        parts: The states that hold the rows, each with the group of these rows there: one, or where caches cannot be
            joined one for the main rows and for each branch.
        memory: What ops and the combination have stored about the main rows.
        candidates: Candidate tokens of the latest `split`, (N, candidates).
        lengths: Cache lengths of each state before it.
    """

    def __init__(
        self,
        main: PlannedBatch,
        branches: Sequence[PlannedBatch] = (),
        combine: Combine | None = None,
        *,
        exits: Exits | None = None,
        references: Sequence[PlannedBatch] = (),
        reread: int | None = None,
    ) -> None:
        """Read all prompts.

        Args:
            main: The main prompts.
            branches: The prompts of each branch.
            combine: Makes scores from the log-probabilities; None: the main rows' logits are the scores.
            exits: Inner layers whose logits are read in the main rows.
            references: Prompts read in lock step with the main ones, for ops to compare with: all of them, or where
                the main ones share prefixes those of each pass over their ends.
            reread: How many of the last prompt tokens are read a second time: one, or all; None: none.
        """
        self.memory = main.memory
        self.candidates, self.lengths = torch.empty(0), list[list[int]]()
        self._combine = combine
        self._owners: Tensor | None = None
        read = [
            prefill_shared(main, exits, references=references)
            if reread is None
            else _read_twice(main, exits, references, reread)
        ]
        read += map(prefill_shared, branches)
        self.parts = [(state, state.groups[0]) for state in join_prompts(read)]

    @property
    def logits(self) -> list[Tensor]:
        """Next-token logits of the main rows and of each branch, (N, vocabulary) float32 each."""
        return [
            block for state, group in self.parts for block in state.logits[state.place(group)].chunk(len(group.blocks))
        ]

    @property
    def size(self) -> int:
        """Number of main rows, N."""
        return self.parts[0][1].size

    @property
    def rows(self) -> int:
        """Number of all rows, those of branches included."""
        return sum(group.rows for _, group in self.parts)

    @property
    def columns(self) -> int:
        """Number of positions of these rows, without padding that only others need."""
        return max(
            int(state.ids.shape[1]) - min(block.padding for block in group.blocks) for state, group in self.parts
        )

    def cache_sizes(self) -> tuple[tuple[LayerSize, ...], int]:
        """Return the layers of the caches, with bytes of a mean row, and the bytes that the caches take now."""
        states = [state for state, _ in self.parts]
        shares = [len(state.ids) / sum(len(each.ids) for each in states) for state in states]
        sizes = [
            size.times(share)
            for state, share in zip(states, shares, strict=True)
            for size in cache_sizes.layer_sizes(state.cache)
        ]
        return tuple(sizes), sum(cache_sizes.bytes_now(state.cache) for state in states)

    @property
    def said(self) -> Tensor:
        """Tokens of the answers so far, (N, t)."""
        state, group = self.parts[0]
        first = state.place(group).start
        return state.ids[first : first + group.size, group.prompt :]

    def scores(self) -> Tensor:
        """Return next-token scores, (N, vocabulary) float32; call once a step, as a combination may have memory.

        Raises:
            CompositionError: The combination returns another shape.
        """
        logits = self.logits
        if self._combine is None:
            return logits[0]
        levels = tuple(part.logsumexp(dim=-1, keepdim=True) for part in logits)
        main, *branches = (part - level for part, level in zip(logits, levels, strict=True))
        step = Step(main, tuple(branches), self.said, self.memory, self.exits, levels, self._owners)
        return combine_scores(self._combine, step)

    @property
    def exits(self) -> dict[Exit, Tensor]:
        """Log-probabilities of the session's exits, (N, vocabulary) each; see `Step.exits`."""
        return {key: early.log_softmax(dim=-1) for key, early in self.parts[0][1].early.items()}

    @property
    def one_by_one(self) -> bool:
        """Whether an op needs tokens to be read one by one."""
        return any(plan.one_by_one for plan in self._plans())

    @property
    def whole(self) -> bool:
        """Whether an op, or the combination, needs all rows in each pass; see `Op.whole`."""
        return getattr(self._combine, "whole", False) or any(op.whole for plan in self._plans() for op in plan.ops)

    @property
    def edited(self) -> bool:
        """Whether an op acts on these rows."""
        return any(plan.ops for plan in self._plans())

    @property
    def splittable(self) -> bool:
        """Whether the caches support `split`."""
        return all(caches.can_split(state.cache) for state, _ in self.parts)

    def step(self, tokens: Tensor) -> None:
        """Feed each main row and its branches the next token, (N,); other batches must not have joined."""
        step_together([self], [tokens])

    def reread(self, tokens: Tensor, memory: Memory | None = None) -> None:
        """Feed each main row and its branches several tokens of an answer.

        This takes one pass, except where an op needs tokens one by one, or where there is a combination and `memory` is
        None. Then each token is scored and fed in turn.

        Args:
            tokens: (N, tokens); may be empty.
            memory: The memory of the rows afterwards; None: it follows from the tokens.
        """
        if self.one_by_one or (memory is None and self._combine is not None):
            for token in tokens.T:
                self.scores()
                self.step(token)
        elif tokens.shape[1]:
            for state, group in self.parts:
                with follow_frames(self.frame(group, answer=True)):
                    state.read(tokens.repeat(len(group.blocks), 1))
        if memory is not None:
            self.memory = memory.copy()

    def split(self, tokens: Tensor) -> None:
        """Feed each main row and its branches several candidate tokens in one pass, (N, candidates).

        Every block must have a plan. `logits` are then (N, candidates, vocabulary), until `keep`.
        """
        split_together([self], [tokens])

    def keep(self, rows: Tensor, candidates: Tensor | None, differing: int | None = None) -> None:
        """Continue some main rows after `split`, each with one of its candidate tokens.

        Args:
            rows: 0-based, (N,); may repeat.
            candidates: 0-based candidate of each of `rows`, (N,); None: drop all, as if there had been no `split`.
            differing: The rows differ in at most so many newest tokens, as beams of one prompt do; None: in any.
        """
        keep_together([self], [rows], None if candidates is None else [candidates], differing)

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder main rows and their branches, by 0-based index."""
        select_together([self], [rows])

    def taken(self, rows: Tensor) -> DecodeBatch:
        """Return a copy of some main rows with their branches, by 0-based index; this batch does not change."""
        copied, size = copy.copy(self), self.size
        states = [state.taken(group, rows) for state, group in self.parts]
        copied.parts = [(state, state.groups[0]) for state in states]
        copied.track(rows, size)
        return copied

    def frame(
        self, group: Group, *, answer: bool = False, candidates: bool = False, memory: Memory | None = None
    ) -> Frame:
        """Return the frame of passes over some of the rows; see `Frame`."""
        memory = self.memory if memory is None else memory
        return Frame(group.blocks, answer, candidates, False, self._owners, memory, None, group.size)

    def track(self, rows: Tensor, size: int) -> None:
        """Update the prompt that each row belongs to, and the memory, after rows were picked from `size`."""
        owners = torch.arange(size, device=rows.device) if self._owners is None else self._owners
        self._owners = owners[rows]
        self.memory = self.memory.select(rows, size)

    def adopt(self, others: Sequence[DecodeBatch]) -> None:
        """Take over the owners and the memory of batches whose rows now follow these."""
        owners = [batch._owners for batch in (self, *others)]
        assert all(part is not None for part in owners), "rows that were not picked belong to no prompt of a search"
        self._owners = torch.cat([part for part in owners if part is not None])
        self.memory = Memory.join([batch.memory for batch in (self, *others)])

    def _plans(self) -> list[Plan]:
        return [block.plan for _, group in self.parts for block in group.blocks if block.plan is not None]


def _read_twice(main: PlannedBatch, exits: Exits | None, references: Sequence[PlannedBatch], count: int) -> ReadPrompts:
    """Read a batch of prompts, and the last `count` tokens a second time: one, or all."""
    second = replace(main.frame, reread=True)
    if count == main.prepared.length:
        first = replace(main.prepared, cache=copy.deepcopy(main.prepared.cache))
        prefill_shared(replace(main, prepared=first), references=references)
        with follow_frames(second):
            return ReadPrompts.of(prefill(main, exits))
    (state,) = join_prompts([prefill_shared(main, exits, past=True, references=references)])
    (group,) = state.groups
    last, early = state.ids[:, -1:], group.early
    state.drop_last()
    with follow_frames(replace(second, blocks=group.blocks)):
        state.read(last)
    group.early = {**early, **group.early}
    return ReadPrompts.of(state)
