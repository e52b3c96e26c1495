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


@dataclass(slots=True)
class DecodeState:
    """The decode state of R rows at T positions, padding included.

    Attributes:
        model: The model that decodes.
        ids: Tokens read so far, (R, T).
        kwargs: Masks, position ids and other arguments of the model's forward, by name.
        cache: KV cache of the tokens read.
        logits: Next-token logits, (R, vocabulary) float32.
        blocks: The blocks of equal size that the rows form, each with its plan.
        exits: Inner layers whose logits are read in the first block's rows; None: none.
        early: The logits of these exits, (rows, vocabulary) float32 each.
        before_split: `logits` and `early` as they were before `split`.
    """

    model: PreTrainedModel
    ids: Tensor
    kwargs: dict[str, Any]
    cache: Cache
    logits: Tensor
    blocks: tuple[Block, ...]
    exits: Exits | None = None
    early: dict[Exit, Tensor] = field(default_factory=dict)
    before_split: tuple[Tensor, dict[Exit, Tensor]] = field(init=False)

    @property
    def prompt(self) -> int:
        """Number of positions before the answer, padding included."""
        first = self.blocks[0]
        assert first.prompt is not None
        return first.padding + first.prompt

    def read(self, tokens: Tensor) -> None:
        """Feed each row its next tokens in one pass, (R, tokens)."""
        logits, early = self._forward(self._append(tokens), 1)
        self.logits, self.early = _last(logits, self.ids), {key: part[:, 0] for key, part in early.items()}

    def split(self, tokens: Tensor) -> list[int]:
        """Feed each row several candidate tokens for one position, (R, candidates).

        Returns:
            Cache lengths from before, for `keep`.
        """
        lengths, count = caches.record_lengths(self.cache), tokens.shape[1]
        self.before_split = self.logits, self.early
        logits, self.early = self._forward(with_candidates(self._append(tokens[:, :1]), tokens), count)
        self.logits = logits[:, -count:].to(self.ids.device, torch.float32)
        return lengths

    def keep(
        self, lengths: Sequence[int], rows: Tensor, candidates: Tensor | None, tokens: Tensor, differing: int | None
    ) -> None:
        """Continue some rows, each with one candidate, `tokens` (N,); without candidates all of them are dropped."""
        caches.keep_rows(self.cache, lengths, rows, candidates, differing)
        if candidates is None:
            self.logits, self.early = self.before_split
        self._pick(rows)
        if candidates is None:
            self._drop_position()
            return
        self.ids = torch.cat([self.ids[:, :-1], tokens[:, None]], dim=1)
        self.logits = self.logits[torch.arange(len(rows), device=rows.device), candidates]
        self.early = {
            key: part[torch.arange(len(part), device=part.device), candidates[: len(part)].to(part.device)]
            for key, part in self.early.items()
        }

    def drop_last(self) -> None:
        """Drop the last token read; next, feed it again, or read the one before from a cache with `past`."""
        caches.drop_last(self.cache, self.ids.shape[1])
        self._drop_position()

    def taken(self, rows: Tensor) -> DecodeState:
        """Return a copy of some rows, by 0-based index, repeated or not; this state does not change."""
        copied = replace(self, kwargs=dict(self.kwargs), cache=caches.copy_rows(self.cache, rows))
        copied._pick(rows)
        return copied

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows, by 0-based index."""
        self._pick(rows)
        self.cache.reorder_cache(rows)

    def _append(self, tokens: Tensor) -> dict[str, Any]:
        """Append tokens, (R, tokens), and return the model's inputs that read them."""
        self.kwargs = extend_inputs(self.model, self.kwargs, tokens.shape[1])
        self.ids = torch.cat([self.ids, tokens], dim=1)
        return next_inputs(self.model, self.ids, self.kwargs, self.cache, tokens.shape[1])

    def _forward(self, inputs: Mapping[str, Any], count: int) -> tuple[Tensor, dict[Exit, Tensor]]:
        return forward(self.model, inputs, self.exits, len(self.ids) // len(self.blocks), count)

    def _drop_position(self) -> None:
        """Drop the last position of all but the cache."""
        self.ids = self.ids[:, :-1]
        for key, axis in BATCH_AXIS.items():
            if self.kwargs.get(key) is not None:
                value = self.kwargs[key]
                self.kwargs[key] = value.narrow(axis + 1, 0, value.shape[axis + 1] - 1)

    def _pick(self, rows: Tensor) -> None:
        """Select rows of all but the cache."""
        self.ids, self.logits = self.ids[rows], self.logits[rows]
        main = rows[: len(rows) // len(self.blocks)]
        self.early = {key: part[main.to(part.device)] for key, part in self.early.items()}
        for key, axis in BATCH_AXIS.items():
            if self.kwargs.get(key) is not None:
                self.kwargs[key] = self.kwargs[key].index_select(axis, rows)


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
    return DecodeState(
        prepared.model, ids, kwargs, prepared.cache, _last(logits, ids), source.frame.blocks, exits, last
    )


def join(states: Sequence[DecodeState], places: Sequence[int] | None = None) -> list[DecodeState]:
    """Join states into one; return them unchanged if their caches cannot be joined.

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
    blocks = tuple(
        replace(block, padding=block.padding + max(lengths) - length)
        for state, length in zip(states, lengths, strict=True)
        for block in state.blocks
    )
    ids = _pad_and_concat([state.ids for state in states], 0)
    logits = torch.cat([state.logits for state in states])
    cache = caches.join(all_caches, places)
    return [replace(states[0], ids=ids, kwargs=kwargs, cache=cache, logits=logits, blocks=blocks)]


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
