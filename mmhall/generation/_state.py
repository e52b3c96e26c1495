"""Rows in the middle of decoding: what they have read, their cache, and what may come next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from mmhall._transformers import caches
from mmhall._transformers.calls import BATCH_AXIS, grown, next_inputs, with_siblings
from mmhall.attention import Block, Exit, Exits
from mmhall.generation._prepare import PlannedBatch, forward


@dataclass(slots=True)
class DecodeState:
    """Rows in the middle of decoding; R rows, T positions so far, padding included.

    Attributes:
        model: What decodes them.
        ids: Tokens read so far, (R, T).
        kwargs: Masks, position ids and the like, by the names of the model's forward.
        cache: Of what was read.
        logits: Next-token logits, (R, vocabulary) float32.
        blocks: What the rows are: so many blocks of equal size, and what is asked of each.
        exits: Inner layers whose logits are wanted of the first block's rows; None: none.
        early: These logits, (rows, vocabulary) float32 each.
        whole: Both as they were before tokens were tried side by side.
    """

    model: PreTrainedModel
    ids: Tensor
    kwargs: dict[str, Any]
    cache: Cache
    logits: Tensor
    blocks: tuple[Block, ...]
    exits: Exits | None = None
    early: dict[Exit, Tensor] = field(default_factory=dict)
    whole: tuple[Tensor, dict[Exit, Tensor]] = field(init=False)

    @property
    def prompt(self) -> int:
        """Positions before the answer, padding included."""
        first = self.blocks[0]
        assert first.prompt is not None
        return first.padding + first.prompt

    def read(self, tokens: Tensor) -> None:
        """Feed every row its next tokens in one pass, (R, tokens)."""
        logits, early = self._passed(self._next(tokens), 1)
        self.logits, self.early = _last(logits, self.ids), {one: part[:, 0] for one, part in early.items()}

    def split(self, tokens: Tensor) -> list[int]:
        """Feed every row several tokens that may come next, (R, siblings).

        Returns:
            What `keep` needs to know of the cache before.
        """
        before, count = caches.lengths(self.cache), tokens.shape[1]
        self.whole = self.logits, self.early
        logits, self.early = self._passed(with_siblings(self._next(tokens[:, :1]), tokens), count)
        self.logits = logits[:, -count:].to(self.ids.device, torch.float32)
        return before

    def keep(
        self, before: Sequence[int], rows: Tensor, siblings: Tensor | None, tokens: Tensor, own: int | None
    ) -> None:
        """Go on with one sibling, `tokens` (N,), of each of some rows; without siblings all that was fed is dropped."""
        caches.keep(self.cache, before, rows, siblings, own)
        if siblings is None:
            self.logits, self.early = self.whole
        self._pick(rows)
        if siblings is None:
            self._shorten()
            return
        self.ids = torch.cat([self.ids[:, :-1], tokens[:, None]], dim=1)
        self.logits = self.logits[torch.arange(len(rows), device=rows.device), siblings]
        self.early = {
            one: part[torch.arange(len(part), device=part.device), siblings[: len(part)].to(part.device)]
            for one, part in self.early.items()
        }

    def drop_last(self) -> None:
        """Forget the last token that was read; the one before must be read or fed with the past kept."""
        caches.drop_last(self.cache, self.ids.shape[1])
        self._shorten()

    def taken(self, rows: Tensor) -> DecodeState:
        """Copy rows, by 0-based index, repeated or not; this state stays as it is."""
        copied = replace(self, kwargs=dict(self.kwargs), cache=caches.taken(self.cache, rows))
        copied._pick(rows)
        return copied

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows, by 0-based index."""
        self._pick(rows)
        self.cache.reorder_cache(rows)

    def _next(self, tokens: Tensor) -> dict[str, Any]:
        """Append tokens, (R, tokens), and return what the model takes to read them."""
        self.kwargs = grown(self.model, self.kwargs, tokens.shape[1])
        self.ids = torch.cat([self.ids, tokens], dim=1)
        return next_inputs(self.model, self.ids, self.kwargs, self.cache, tokens.shape[1])

    def _passed(self, inputs: Mapping[str, Any], count: int) -> tuple[Tensor, dict[Exit, Tensor]]:
        return forward(self.model, inputs, self.exits, len(self.ids) // len(self.blocks), count)

    def _shorten(self) -> None:
        self.ids = self.ids[:, :-1]
        for key, axis in BATCH_AXIS.items():
            if self.kwargs.get(key) is not None:
                held = self.kwargs[key]
                self.kwargs[key] = held.narrow(axis + 1, 0, held.shape[axis + 1] - 1)

    def _pick(self, rows: Tensor) -> None:
        """Select rows of all but the cache."""
        self.ids, self.logits = self.ids[rows], self.logits[rows]
        main = rows[: len(rows) // len(self.blocks)]
        self.early = {one: part[main.to(part.device)] for one, part in self.early.items()}
        for key, axis in BATCH_AXIS.items():
            if self.kwargs.get(key) is not None:
                self.kwargs[key] = self.kwargs[key].index_select(axis, rows)


def prefill(source: PlannedBatch, exits: Exits | None = None, *, past: bool = False) -> DecodeState:
    """Read a batch of prompts, ready to take the first step; with `past`, or to drop what was read last."""
    prepared = source.prepared
    if past:
        caches.lengths(prepared.cache)
    ids = prepared.input_ids
    logits, early = prepared.read(exits)
    kept = {
        key: value for key, value in prepared.kwargs.items() if key in BATCH_AXIS or isinstance(value, bool | int | str)
    }
    last = {one: part[:, 0] if one.positions is None else part for one, part in early.items()}
    return DecodeState(prepared.model, ids, kept, prepared.cache, _last(logits, ids), source.frame.blocks, exits, last)


def prefill_shared(source: PlannedBatch, exits: Exits | None = None) -> DecodeState:
    """Read a batch of prompts, what those about one picture begin with once."""
    shared = source.prepared.shared
    if shared is None:
        return prefill(source, exits)
    first, parts = prefill(PlannedBatch(shared.prepared)), shared.parts()
    states = [first.taken(shared.of[rows]) for rows, _ in parts]
    for state, (_, tokens) in zip(states, parts, strict=True):
        state.read(tokens)
    (state,) = join(states)
    state.blocks = (replace(source.frame.blocks[0], prompt=state.ids.shape[1]),)
    order = torch.cat([rows for rows, _ in parts])
    if not torch.equal(order, torch.arange(len(order), device=order.device)):
        state.select(order.argsort())
    return state


def join(states: Sequence[DecodeState]) -> list[DecodeState]:
    """Put the rows of all states under each other in one state, if their caches allow it; else return them as given."""
    held = [state.cache for state in states]
    if len(states) == 1 or not caches.joinable(held):
        return list(states)
    lengths = [state.ids.shape[1] for state in states]
    if len(set(lengths)) > 1 or any(state.kwargs.get("attention_mask") is not None for state in states):
        for state in states:
            if state.kwargs.get("attention_mask") is None:
                state.kwargs["attention_mask"] = torch.ones_like(state.ids)
    kwargs = dict(states[0].kwargs)
    for key, axis in BATCH_AXIS.items():
        if kwargs.get(key) is not None:
            kwargs[key] = _under_each_other([state.kwargs[key] for state in states], axis)
    blocks = tuple(
        replace(block, padding=block.padding + max(lengths) - length)
        for state, length in zip(states, lengths, strict=True)
        for block in state.blocks
    )
    ids = _under_each_other([state.ids for state in states], 0)
    logits = torch.cat([state.logits for state in states])
    return [replace(states[0], ids=ids, kwargs=kwargs, cache=caches.join(held), logits=logits, blocks=blocks)]


def _under_each_other(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Pad with zeros on the left of the axis after `axis`, to one length, and concatenate along `axis`."""
    length = max(part.shape[axis + 1] for part in parts)
    padded = []
    for part in parts:
        shape = list(part.shape)
        shape[axis + 1] = length - shape[axis + 1]
        padded.append(torch.cat([part.new_zeros(shape), part], dim=axis + 1))
    return torch.cat(padded, dim=axis)


def _last(logits: Tensor, ids: Tensor) -> Tensor:
    return logits[:, -1].to(ids.device, torch.float32, copy=True)
