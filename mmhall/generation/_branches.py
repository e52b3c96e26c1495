"""Decode several variants of the input side by side.

Each branch reads its prompt on its own, so that a short prompt stays short. Their caches are then
joined, padded on the left to one length, and from there on every step is a single forward pass of
all rows: first the main rows, then each branch's, in the same order; each block of rows follows a plan of
its own. Where caches cannot be joined (a cross-attention model with and without its picture) the branches step
one after the other.

Several tokens can be tried after each row in one pass, as siblings: they stand at the same position and do
not see each other. Of each row to go on with, one of them is then kept.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmhall._transformers import caches
from mmhall.attention import Exit, Exits, Frame, Memory, few_rows, reading
from mmhall.generation._candidates import combine_scores
from mmhall.generation._lockstep import lockstep_reference
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._state import DecodeState, join, prefill, prefill_shared
from mmhall.strategies import Step

if TYPE_CHECKING:
    from mmhall.strategies import Combine


class DecodeBatch:
    """Main rows and the rows of their branches, in lock step; N main rows.

    Attributes:
        memory: What the main rows remember.
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
            main: The main ones.
            branches: Each branch's.
            combine: How their log-probabilities become scores; None: the main rows' logits are the scores.
            exits: Inner layers of the main rows whose logits are wanted.
            reference: Read in lock step with the main prompts, for ops to compare with.
            reread: Read so many last tokens of the main prompts once more: one, or all; None: none.
        """
        self.memory = main.memory
        self._combine, self._copies = combine, 1 + len(branches)
        self._owners: Tensor | None = None
        with lockstep_reference(main.plan, reference) as compared:
            first = replace(main.frame, reference=compared)
            with reading(first):
                states = [prefill_shared(main, exits) if reread is None else _read_twice(main, exits, first, reread)]
        for branch in branches:
            with reading(branch.frame):
                states.append(prefill_shared(branch))
        self._states = join(states)

    @property
    def logits(self) -> list[Tensor]:
        """Next-token logits of the main rows and of each branch, (N, vocabulary) float32 each."""
        if len(self._states) == 1:
            return list(self._states[0].logits.chunk(self._copies))
        return [state.logits for state in self._states]

    @property
    def size(self) -> int:
        """How many main rows there are, N."""
        state = self._states[0]
        return len(state.ids) // len(state.blocks)

    @property
    def said(self) -> Tensor:
        """Tokens of the answers so far, (N, t)."""
        ids = self._states[0].ids[: self.size]
        return ids[:, self._states[0].prompt :]

    def scores(self) -> Tensor:
        """Return next-token scores, (N, vocabulary) float32; ask once a step, since what they are made of may remember.

        Raises:
            CompositionError: The combination has another shape.
        """
        logits = self.logits
        if self._combine is None:
            return logits[0]
        levels = tuple(part.logsumexp(dim=-1, keepdim=True) for part in logits)
        main, *branches = (part - level for part, level in zip(logits, levels, strict=True))
        return combine_scores(self._combine, Step(main, tuple(branches), self.said, self.memory, self.exits, levels))

    @property
    def exits(self) -> dict[Exit, Tensor]:
        """Log-probabilities of the session's exits, (N, vocabulary) each; see `Step.exits`."""
        return {one: early.log_softmax(dim=-1) for one, early in self._states[0].early.items()}

    @property
    def one_by_one(self) -> bool:
        """Whether tokens must be read one after the other, because of what an op does on the way."""
        blocks = (block for state in self._states for block in state.blocks)
        return any(block.plan is not None and block.plan.one_by_one for block in blocks)

    @property
    def splittable(self) -> bool:
        """Whether `split` can be asked for."""
        return all(caches.splittable(state.cache) for state in self._states)

    def step(self, tokens: Tensor) -> None:
        """Feed each main row its next token, (N,), and its branches the same."""
        for state, copies in self._blocks():
            with reading(self._frame(state)), few_rows(copies > 1):
                state.read(tokens.repeat(copies)[:, None])

    def reread(self, tokens: Tensor, memory: Memory | None = None) -> None:
        """Feed each main row the next tokens of an answer, and its branches the same.

        It takes one pass, unless tokens must be read one by one: for an op, or because there is a combination and
        `memory` is not known. Then tokens are fed one after the other, and each is scored before it is fed.

        Args:
            tokens: (N, tokens); there may be none.
            memory: What the rows are to remember afterwards; None: what follows from the tokens.
        """
        if self.one_by_one or (memory is None and self._combine is not None):
            for token in tokens.T:
                self.scores()
                self.step(token)
        elif tokens.shape[1]:
            for state, copies in self._blocks():
                with reading(self._frame(state, answer=True)):
                    state.read(tokens.repeat(copies, 1))
        if memory is not None:
            self.memory = memory.copy()

    def split(self, tokens: Tensor) -> None:
        """Try several next tokens of each main row in one pass, (N, siblings), and the same in its branches.

        Every block must have a plan. `logits` are then (N, siblings, vocabulary), until `keep`.
        """
        self._tried, self._before = tokens, []
        for state, copies in self._blocks():
            frame = self._frame(state, answer=True, siblings=True, memory=self.memory.read_only())
            with reading(frame):
                self._before.append(state.split(tokens.repeat(copies, 1)))

    def keep(self, rows: Tensor, siblings: Tensor | None, own: int | None = None) -> None:
        """After `split`, go on with one sibling of each of some main rows.

        Args:
            rows: 0-based, (N,); may repeat.
            siblings: 0-based, of each of `rows`, (N,); None: with none, the rows are as they were before `split`.
            own: In so many of their newest tokens at most the rows differ, as beams of one prompt do; None: in any.
        """
        own = own if len(rows) == len(self._tried) else None
        tokens = rows if siblings is None else self._tried[rows, siblings]
        size = len(self._tried)
        for (state, copies), before in zip(self._blocks(), self._before, strict=True):
            chosen = None if siblings is None else siblings.repeat(copies)
            state.keep(before, _of_copies(rows, size, copies), chosen, tokens.repeat(copies), own)
        self._follow(rows, size)

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder main rows by 0-based index, and their branches alike."""
        size = self.size
        for state, copies in self._blocks():
            state.select(_of_copies(rows, size, copies))
        self._follow(rows, size)

    def taken(self, rows: Tensor) -> DecodeBatch:
        """Copy main rows with their branches, by 0-based index; these rows stay as they are."""
        copied, size = copy.copy(self), self.size
        copied._states = [state.taken(_of_copies(rows, size, copies)) for state, copies in self._blocks()]
        copied._follow(rows, size)
        return copied

    def _follow(self, rows: Tensor, size: int) -> None:
        """Note which prompts the rows belong to that are picked from `size` rows, and what they remember."""
        owners = torch.arange(size, device=rows.device) if self._owners is None else self._owners
        self._owners = owners[rows]
        self.memory = self.memory.selected(rows, size)

    def _frame(
        self, state: DecodeState, *, answer: bool = False, siblings: bool = False, memory: Memory | None = None
    ) -> Frame:
        held = self.memory if memory is None else memory
        return Frame(state.blocks, answer=answer, siblings=siblings, owners=self._owners, memory=held)

    def _blocks(self) -> list[tuple[DecodeState, int]]:
        """Return the states, and how many copies of the main rows each holds."""
        return [(state, len(state.blocks)) for state in self._states]


def _read_twice(main: PlannedBatch, exits: Exits | None, frame: Frame, count: int) -> DecodeState:
    """Read a batch of prompts, and so many of their last tokens again: one, or all."""
    again = replace(frame, reread=True, reference=None)
    if count == main.prepared.length:
        first = replace(main.prepared, cache=copy.deepcopy(main.prepared.cache))
        prefill(replace(main, prepared=first))
        with reading(again):
            return prefill(main, exits)
    state = prefill(main, exits, past=True)
    last, early = state.ids[:, -1:], state.early
    state.drop_last()
    with reading(again):
        state.read(last)
    state.early = {**early, **state.early}
    return state


def _of_copies(rows: Tensor, size: int, copies: int) -> Tensor:
    """Return where main rows and their branches stand in `copies` blocks of `size` rows."""
    return torch.cat([rows + size * copy for copy in range(copies)])
