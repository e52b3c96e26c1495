"""The decode state of a batch: the tokens it has read, their KV cache, and the next-token logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from mmhall._transformers import caches
from mmhall._transformers.calls import BATCH_AXIS, extend_inputs, next_inputs, with_candidates
from mmhall.attention import Block, Exit, Exits
from mmhall.generation._prepare import PlannedBatch, forward


@dataclass(slots=True, eq=False)
class Group:
    """The rows of one batch of prompts in a decode state: its main rows, then those of each branch.

    Attributes:
        blocks: Their blocks, of equal size, each with its plan.
        size: Number of rows of each block.
        exits: Inner layers whose logits are read in the main rows; None: none.
        early: The logits of these exits, (size, vocabulary) float32 each.
    """

    blocks: tuple[Block, ...]
    size: int
    exits: Exits | None = None
    early: dict[Exit, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return self.size * len(self.blocks)

    @property
    def prompt(self) -> int:
        """Number of positions before the answers of the main rows, padding included."""
        first = self.blocks[0]
        assert first.prompt is not None
        return first.padding + first.prompt

    def copies(self, rows: Tensor) -> Tensor:
        """Return the indices of main rows, 0-based, and of their rows in each branch."""
        return torch.cat([rows + self.size * number for number in range(len(self.blocks))])

    def pick(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows, by 0-based index of the main row."""
        self.size = len(rows)
        self.early = {key: part[rows.to(part.device)] for key, part in self.early.items()}


@dataclass(slots=True)
class DecodeState:
    """The decode state of R rows at T positions, padding included.

    Attributes:
        model: The model that decodes.
        ids: Tokens read so far, (R, T).
        kwargs: Masks, position ids and other arguments of the model's forward, by name.
        cache: KV cache of the tokens read.
        logits: Next-token logits, (R, vocabulary) float32.
        groups: The rows of each batch of prompts, in order.
        before_split: `logits`, and `early` of each group, as they were before `split`.
    """

    model: PreTrainedModel
    ids: Tensor
    kwargs: dict[str, Any]
    cache: Cache
    logits: Tensor
    groups: list[Group]
    before_split: tuple[Tensor, list[dict[Exit, Tensor]]] = field(init=False)

    def place(self, group: Group) -> slice:
        """Return where the rows of a group stand."""
        first = sum(each.rows for each in self.groups[: self.groups.index(group)])
        return slice(first, first + group.rows)

    def read(self, tokens: Tensor) -> None:
        """Feed each row its next tokens in one pass, (R, tokens)."""
        logits = self._forward(self._append(tokens), 1)
        self.logits = _last(logits, self.ids)
        for group in self.groups:
            group.early = {key: part[:, 0] for key, part in group.early.items()}

    def split(self, tokens: Tensor) -> list[int]:
        """Feed each row several candidate tokens for one position, (R, candidates).

        Returns:
            Cache lengths from before, for `keep`.
        """
        lengths, count = caches.record_lengths(self.cache), tokens.shape[1]
        self.before_split = self.logits, [group.early for group in self.groups]
        logits = self._forward(with_candidates(self._append(tokens[:, :1]), tokens), count)
        self.logits = logits[:, -count:].to(self.ids.device, torch.float32)
        return lengths

    def keep(
        self,
        lengths: Sequence[int],
        rows: Sequence[Tensor],
        candidates: Sequence[Tensor] | None,
        tokens: Sequence[Tensor],
        differing: int | None,
    ) -> None:
        """Continue some rows after `split`, each with one candidate.

        Args:
            lengths: Result of `split`.
            rows: Main rows of each group, (N,) 0-based.
            candidates: Candidate of each of these rows, (N,) 0-based; None: all candidates are dropped.
            tokens: These candidates, (N,).
            differing: As in `caches.keep_rows`.
        """
        index, chosen = self._index(rows), None if candidates is None else self.spread(candidates)
        caches.keep_rows(self.cache, lengths, index, chosen, differing)
        if candidates is None:
            self.logits, early = self.before_split
            for group, before in zip(self.groups, early, strict=True):
                group.early = before
        self.pick(index, rows)
        if candidates is None:
            self._drop_position()
            return
        self.ids = torch.cat([self.ids[:, :-1], self.spread(tokens)[:, None]], dim=1)
        self.logits = self.logits[torch.arange(len(index), device=index.device), chosen]
        for group, own in zip(self.groups, candidates, strict=True):
            each = torch.arange(group.size)
            group.early = {key: e[each.to(e.device), own.to(e.device)] for key, e in group.early.items()}

    def drop_last(self) -> None:
        """Drop the last token read; next, feed it again, or read the one before from a cache with `past`."""
        caches.drop_last(self.cache, self.ids.shape[1])
        self._drop_position()

    def taken(self, group: Group, rows: Tensor) -> DecodeState:
        """Return a copy of some main rows of a group with their branches, by 0-based index, repeated or not."""
        index = group.copies(rows) + self.place(group).start
        copied = replace(self, kwargs=dict(self.kwargs), cache=caches.copy_rows(self.cache, index))
        copied.groups = [replace(group)]
        copied.pick(index, [rows])
        return copied

    def select(self, choices: Sequence[Tensor]) -> None:
        """Keep, repeat or reorder rows; padding that all of them have on their left is dropped.

        Args:
            choices: For each group, its main rows by 0-based index, (N,); a group without rows leaves the state.
        """
        index = self._index(choices)
        self.cache.reorder_cache(index)
        self.pick(index, choices)
        self.groups = [group for group in self.groups if group.size]
        padding = min(block.padding for group in self.groups for block in group.blocks)
        if padding > 0:
            self._drop_padding(padding)

    def spread(self, values: Sequence[Tensor]) -> Tensor:
        """Return values of all rows, from those of the main rows of each group, (N, ...)."""
        parts = [
            own.repeat(len(group.blocks), *[1] * (own.ndim - 1)) for group, own in zip(self.groups, values, strict=True)
        ]
        return torch.cat(parts)

    def merge(self) -> Group:
        """Make one group of all groups, whose rows follow the same plans at the same length, and return it."""
        first, sizes = self.groups[0], [group.size for group in self.groups]
        blocks = first.blocks
        if len(blocks) > 1:
            parts = torch.arange(len(self.ids), device=self.ids.device).split([group.rows for group in self.groups])
            order = torch.cat([part.view(len(blocks), -1) for part in parts], dim=1).flatten()
            self.cache.reorder_cache(order)
            self.pick(order, [torch.arange(size) for size in sizes])
        early = {key: torch.cat([group.early[key] for group in self.groups]) for key in first.early}
        self.groups = [Group(blocks, sum(sizes), first.exits, early)]
        return self.groups[0]

    def _index(self, choices: Sequence[Tensor]) -> Tensor:
        """Return the rows of all groups that go on, 0-based, from the main rows of each."""
        parts, first = [], 0
        for group, rows in zip(self.groups, choices, strict=True):
            parts.append(group.copies(rows) + first)
            first += group.rows
        return torch.cat(parts)

    def _append(self, tokens: Tensor) -> dict[str, Any]:
        """Append tokens, (R, tokens), and return the model's inputs that read them."""
        self.kwargs = extend_inputs(self.model, self.kwargs, tokens.shape[1])
        self.ids = torch.cat([self.ids, tokens], dim=1)
        return next_inputs(self.model, self.ids, self.kwargs, self.cache, tokens.shape[1])

    def _forward(self, inputs: Mapping[str, Any], count: int) -> Tensor:
        """Run the model, and store what exits have read, (size, count, vocabulary) each; return its logits."""
        exits = []
        for group in self.groups:
            first = self.place(group).start
            exits += [] if group.exits is None else [(group.exits, slice(first, first + group.size))]
        logits, early = forward(self.model, inputs, exits, count)
        own = iter(early)
        for group in self.groups:
            group.early = {} if group.exits is None else next(own)
        return logits

    def _drop_position(self) -> None:
        """Drop the last position of all but the cache."""
        self.ids = self.ids[:, :-1]
        for key, axis in BATCH_AXIS.items():
            if self.kwargs.get(key) is not None:
                value = self.kwargs[key]
                self.kwargs[key] = value.narrow(axis + 1, 0, value.shape[axis + 1] - 1)

    def _drop_padding(self, count: int) -> None:
        """Drop the first positions, which are padding in every row."""
        caches.drop_first(self.cache, count, self.ids.shape[1])
        self.ids = self.ids[:, count:]
        for key, axis in BATCH_AXIS.items():
            if self.kwargs.get(key) is not None:
                value = self.kwargs[key]
                self.kwargs[key] = value.narrow(axis + 1, count, value.shape[axis + 1] - count)
        for group in self.groups:
            group.blocks = tuple(replace(block, padding=block.padding - count) for block in group.blocks)

    def pick(self, index: Tensor, choices: Sequence[Tensor]) -> None:
        """Select rows of all but the cache, by their index and by the main rows of each group."""
        self.ids, self.logits = self.ids[index], self.logits[index]
        for group, rows in zip(self.groups, choices, strict=True):
            group.pick(rows)
        for key, axis in BATCH_AXIS.items():
            if self.kwargs.get(key) is not None:
                self.kwargs[key] = self.kwargs[key].index_select(axis, index)


def prefill(source: PlannedBatch, exits: Exits | None = None, *, past: bool = False) -> DecodeState:
    """Read a batch of prompts; with `past`, so that the last token can be dropped (`DecodeState.drop_last`)."""
    prepared = source.prepared
    if past:
        caches.record_lengths(prepared.cache)
    ids = prepared.input_ids
    logits, early = prepared.read(exits)
    kwargs = {
        key: value for key, value in prepared.kwargs.items() if key in BATCH_AXIS or isinstance(value, bool | int | str)
    }
    last = {key: part[:, 0] if key.positions is None else part for key, part in early.items()}
    group = Group(source.frame.blocks, len(ids), exits, last)
    return DecodeState(prepared.model, ids, kwargs, prepared.cache, _last(logits, ids), [group])


def join(states: Sequence[DecodeState], places: Sequence[int] | None = None) -> list[DecodeState]:
    """Join states into one, their groups in order; return them unchanged if their caches cannot be joined.

    Args:
        states: The states.
        places: 0-based place of each row in the joined cache; None: as they come. All else stays as it comes.
    """
    all_caches = [state.cache for state in states]
    if len(states) == 1 or not caches.can_join(all_caches):
        return list(states)
    lengths = [state.ids.shape[1] for state in states]
    if len(set(lengths)) > 1 or any(state.kwargs.get("attention_mask") is not None for state in states):
        for state in states:
            if state.kwargs.get("attention_mask") is None:
                state.kwargs["attention_mask"] = torch.ones_like(state.ids)
    kwargs = dict(states[0].kwargs)
    for key, axis in BATCH_AXIS.items():
        if kwargs.get(key) is not None:
            kwargs[key] = _pad_and_concat([state.kwargs[key] for state in states], axis)
    for state, length in zip(states, lengths, strict=True):
        for group in state.groups:
            added = max(lengths) - length
            group.blocks = tuple(replace(block, padding=block.padding + added) for block in group.blocks)
    groups = [group for state in states for group in state.groups]
    ids = _pad_and_concat([state.ids for state in states], 0)
    logits = torch.cat([state.logits for state in states])
    cache = caches.join(all_caches, places)
    return [replace(states[0], ids=ids, kwargs=kwargs, cache=cache, logits=logits, groups=groups)]


def _pad_and_concat(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Pad the axis after `axis` with zeros on the left to one length, and concatenate along `axis`."""
    length = max(part.shape[axis + 1] for part in parts)
    padded = []
    for part in parts:
        shape = list(part.shape)
        shape[axis + 1] = length - shape[axis + 1]
        padded.append(torch.cat([part.new_zeros(shape), part], dim=axis + 1))
    return torch.cat(padded, dim=axis)


def _last(logits: Tensor, ids: Tensor) -> Tensor:
    return logits[:, -1].to(ids.device, torch.float32, copy=True)
