"""Decode the main rows and their branches together.

Each branch reads its prompt by itself, so that a short prompt stays short. Then the caches are padded on the left and
joined, and each further step is one forward pass of all rows: first the main rows, then each branch's, in the same
order. Each block of rows has a plan of its own. Where caches cannot be joined (a cross-attention model with and without
its picture) the branches step one after the other.

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

from mmhall._transformers import caches
from mmhall.attention import Exit, Exits, Frame, Memory, Plan, few_rows, follow_frame
from mmhall.generation._candidates import combine_scores
from mmhall.generation._lockstep import lockstep_reference
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._shared_pass import ReadPrompts, join_prompts, prefill_shared
from mmhall.generation._state import DecodeState, prefill
from mmhall.strategies import Step

if TYPE_CHECKING:
    from mmhall.strategies import Combine


class DecodeBatch:
    """N main rows with the rows of their branches, decoded together.

    Attributes:
        memory: What ops and the combination have stored about the main rows.
    """

    def __init__(
        self,
        main: PlannedBatch,
        branches: Sequence[PlannedBatch] = (),
        combine: Combine | None = None,
        *,
        exits: Exits | None = None,
        reference: PlannedBatch | None = None,
        reread: int | None = None,
    ) -> None:
        """Read all prompts.

        Args:
            main: The main prompts.
            branches: The prompts of each branch.
            combine: Makes scores from the log-probabilities; None: the main rows' logits are the scores.
            exits: Inner layers whose logits are read in the main rows.
            reference: Prompts read in lock step with the main ones, for ops to compare with.
            reread: How many of the last prompt tokens are read a second time: one, or all; None: none.
        """
        self.memory = main.memory
        self._combine, self._copies = combine, 1 + len(branches)
        self._owners: Tensor | None = None
        with lockstep_reference(main.plan, reference) as compared:
            first = replace(main.frame, reference=compared)
            with follow_frame(first):
                read = [prefill_shared(main, exits) if reread is None else _read_twice(main, exits, first, reread)]
        for branch in branches:
            with follow_frame(branch.frame):
                read.append(prefill_shared(branch))
        self._states = join_prompts(read)

    @property
    def logits(self) -> list[Tensor]:
        """Next-token logits of the main rows and of each branch, (N, vocabulary) float32 each."""
        if len(self._states) == 1:
            return list(self._states[0].logits.chunk(self._copies))
        return [state.logits for state in self._states]

    @property
    def size(self) -> int:
        """Number of main rows, N."""
        state = self._states[0]
        return len(state.ids) // len(state.blocks)

    @property
    def said(self) -> Tensor:
        """Tokens of the answers so far, (N, t)."""
        ids = self._states[0].ids[: self.size]
        return ids[:, self._states[0].prompt :]

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
        return {key: early.log_softmax(dim=-1) for key, early in self._states[0].early.items()}

    @property
    def one_by_one(self) -> bool:
        """Whether an op needs tokens to be read one by one."""
        return any(plan.one_by_one for plan in self._plans())

    @property
    def whole(self) -> bool:
        """Whether an op, or the combination, needs all rows in each pass; see `Op.whole`."""
        return getattr(self._combine, "whole", False) or any(op.whole for plan in self._plans() for op in plan.ops)

    @property
    def splittable(self) -> bool:
        """Whether the caches support `split`."""
        return all(caches.can_split(state.cache) for state in self._states)

    def step(self, tokens: Tensor) -> None:
        """Feed each main row and its branches the next token, (N,)."""
        for state, copies in self._blocks():
            with follow_frame(self._frame(state)), few_rows(copies > 1 or state.exits is not None):
                state.read(tokens.repeat(copies)[:, None])

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
            for state, copies in self._blocks():
                with follow_frame(self._frame(state, answer=True)):
                    state.read(tokens.repeat(copies, 1))
        if memory is not None:
            self.memory = memory.copy()

    def split(self, tokens: Tensor) -> None:
        """Feed each main row and its branches several candidate tokens in one pass, (N, candidates).

        Every block must have a plan. `logits` are then (N, candidates, vocabulary), until `keep`.
        """
        self._candidates, self._lengths = tokens, []
        for state, copies in self._blocks():
            frame = self._frame(state, answer=True, candidates=True, memory=self.memory.read_only())
            with follow_frame(frame):
                self._lengths.append(state.split(tokens.repeat(copies, 1)))

    def keep(self, rows: Tensor, candidates: Tensor | None, differing: int | None = None) -> None:
        """Continue some main rows after `split`, each with one of its candidate tokens.

        Args:
            rows: 0-based, (N,); may repeat.
            candidates: 0-based candidate of each of `rows`, (N,); None: drop all, as if there had been no `split`.
            differing: The rows differ in at most so many newest tokens, as beams of one prompt do; None: in any.
        """
        differing = differing if len(rows) == len(self._candidates) else None
        tokens = rows if candidates is None else self._candidates[rows, candidates]
        size = len(self._candidates)
        for (state, copies), lengths in zip(self._blocks(), self._lengths, strict=True):
            chosen = None if candidates is None else candidates.repeat(copies)
            state.keep(lengths, _in_copies(rows, size, copies), chosen, tokens.repeat(copies), differing)
        self._track(rows, size)

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder main rows and their branches, by 0-based index."""
        size = self.size
        for state, copies in self._blocks():
            state.select(_in_copies(rows, size, copies))
        self._track(rows, size)

    def taken(self, rows: Tensor) -> DecodeBatch:
        """Return a copy of some main rows with their branches, by 0-based index; this batch does not change."""
        copied, size = copy.copy(self), self.size
        copied._states = [state.taken(_in_copies(rows, size, copies)) for state, copies in self._blocks()]
        copied._track(rows, size)
        return copied

    def _track(self, rows: Tensor, size: int) -> None:
        """Update the prompt that each row belongs to, and the memory, after rows were picked from `size`."""
        owners = torch.arange(size, device=rows.device) if self._owners is None else self._owners
        self._owners = owners[rows]
        self.memory = self.memory.select(rows, size)

    def _frame(
        self, state: DecodeState, *, answer: bool = False, candidates: bool = False, memory: Memory | None = None
    ) -> Frame:
        memory = self.memory if memory is None else memory
        return Frame(state.blocks, answer=answer, candidates=candidates, owners=self._owners, memory=memory)

    def _plans(self) -> list[Plan]:
        return [block.plan for state in self._states for block in state.blocks if block.plan is not None]

    def _blocks(self) -> list[tuple[DecodeState, int]]:
        """Return each state with its number of copies of the main rows."""
        return [(state, len(state.blocks)) for state in self._states]


def _read_twice(main: PlannedBatch, exits: Exits | None, frame: Frame, count: int) -> ReadPrompts:
    """Read a batch of prompts, and the last `count` tokens a second time: one, or all."""
    second = replace(frame, reread=True, reference=None)
    if count == main.prepared.length:
        first = replace(main.prepared, cache=copy.deepcopy(main.prepared.cache))
        prefill(replace(main, prepared=first))
        with follow_frame(second):
            return ReadPrompts.of(prefill(main, exits))
    (state,) = join_prompts([prefill_shared(main, exits, past=True)])
    last, early = state.ids[:, -1:], state.early
    state.drop_last()
    with follow_frame(replace(second, blocks=state.blocks)):
        state.read(last)
    state.early = {**early, **state.early}
    return ReadPrompts.of(state)


def _in_copies(rows: Tensor, size: int, copies: int) -> Tensor:
    """Return the indices of main rows and their branches in `copies` blocks of `size` rows."""
    return torch.cat([rows + size * copy for copy in range(copies)])
