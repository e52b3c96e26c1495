"""Decode several variants of the input side by side.

Each branch reads its prompt on its own, so that a short prompt stays short. Their caches are then
joined, padded on the left to one length, and from there on every step is a single forward pass of
all rows: first the main rows, then each branch's, in the same order. Where caches cannot be joined
(a cross-attention model with and without its picture) the branches step one after the other.

Several tokens can be tried after each row in one pass, as siblings: they stand at the same position and do
not see each other. Of each row to go on with, one of them is then kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from mmhall._transformers import caches
from mmhall._transformers.calls import BATCH_AXIS, first_inputs, grown, is_about_pictures, next_inputs, with_siblings
from mmhall.attention import Plan, active, few_rows
from mmhall.errors import PromptError
from mmhall.generation.aside import beside
from mmhall.generation.prepare import Prepared


@dataclass(slots=True)
class State:
    """Rows in the middle of decoding; R rows, T positions so far.

    Attributes:
        model: What decodes them.
        ids: Tokens read so far, (R, T).
        kwargs: Masks, position ids and the like, by the names of the model's forward.
        cache: Of what was read.
        logits: Next-token logits, (R, vocabulary) float32.
    """

    model: PreTrainedModel
    ids: Tensor
    kwargs: dict[str, Any]
    cache: Cache
    logits: Tensor

    def step(self, tokens: Tensor) -> None:
        """Feed every row its next token, (R,)."""
        self.read(tokens[:, None])

    def read(self, tokens: Tensor) -> None:
        """Feed every row its next tokens in one pass, (R, tokens)."""
        self.logits = _last(self.model(**self._next(tokens), return_dict=True).logits, self.ids)

    def split(self, tokens: Tensor) -> list[int]:
        """Feed every row several tokens that may come next, (R, siblings).

        Returns:
            What `keep` needs to know of the cache before.
        """
        before = caches.lengths(self.cache)
        outputs = self.model(**with_siblings(self._next(tokens[:, :1]), tokens), return_dict=True)
        self.logits = outputs.logits[:, -tokens.shape[1] :].to(self.ids.device, torch.float32)
        return before

    def keep(
        self, before: Sequence[int], rows: Tensor, siblings: Tensor | None, tokens: Tensor, own: int | None
    ) -> None:
        """Go on with one sibling, `tokens` (N,), of each of some rows; without siblings all that was fed is dropped."""
        caches.keep(self.cache, before, rows, siblings, own)
        self._pick(rows)
        if siblings is None:
            self._shorten()
            return
        self.ids = torch.cat([self.ids[:, :-1], tokens[:, None]], dim=1)
        self.logits = self.logits[torch.arange(len(rows), device=rows.device), siblings]

    def drop_last(self) -> None:
        """Forget the last token that was read; the one before must be read or fed with the past kept."""
        caches.drop_last(self.cache, self.ids.shape[1])
        self._shorten()

    def _shorten(self) -> None:
        self.ids = self.ids[:, :-1]
        for key, axis in BATCH_AXIS.items():
            if self.kwargs.get(key) is not None:
                held = self.kwargs[key]
                self.kwargs[key] = held.narrow(axis + 1, 0, held.shape[axis + 1] - 1)

    def taken(self, rows: Tensor) -> State:
        """Copy rows, by 0-based index, repeated or not; this state stays as it is."""
        copied = State(self.model, self.ids, dict(self.kwargs), caches.taken(self.cache, rows), self.logits)
        copied._pick(rows)
        return copied

    def _next(self, tokens: Tensor) -> dict[str, Any]:
        """Append tokens, (R, tokens), and return what the model takes to read them."""
        self.kwargs = grown(self.model, self.kwargs, tokens.shape[1])
        self.ids = torch.cat([self.ids, tokens], dim=1)
        return next_inputs(self.model, self.ids, self.kwargs, self.cache, tokens.shape[1])

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows, by 0-based index."""
        self._pick(rows)
        self.cache.reorder_cache(rows)

    def _pick(self, rows: Tensor) -> None:
        """Select rows of all but the cache."""
        self.ids, self.logits = self.ids[rows], self.logits[rows]
        for key, axis in BATCH_AXIS.items():
            if self.kwargs.get(key) is not None:
                self.kwargs[key] = self.kwargs[key].index_select(axis, rows)


def read(prepared: Prepared) -> Any:
    """Run the model over a batch of prompts that `generate` has prepared; return its outputs.

    Raises:
        PromptError: There are more or fewer pictures than placeholders.
    """
    model = prepared.model
    inputs = first_inputs(model, prepared.input_ids, prepared.kwargs, prepared.cache)
    try:
        return model(**inputs, return_dict=True)
    except ValueError as error:
        if not is_about_pictures(error):
            raise
        raise PromptError(f"pictures and their placeholders in the prompt do not match: {error}") from error


def prefill(prepared: Prepared, *, past: bool = False) -> State:
    """Read a batch of prompts, ready to take the first step; with `past`, or to drop what was read last."""
    if past:
        caches.lengths(prepared.cache)
    model, ids, outputs = prepared.model, prepared.input_ids, read(prepared)
    kept = {
        key: value for key, value in prepared.kwargs.items() if key in BATCH_AXIS or isinstance(value, bool | int | str)
    }
    return State(model, ids, kept, prepared.cache, _last(outputs.logits, ids))


def prefill_shared(prepared: Prepared) -> State:
    """Read a batch of prompts, what those about one picture begin with once."""
    shared = prepared.shared
    if shared is None:
        return prefill(prepared)
    first, parts = prefill(shared.prepared), shared.parts()
    states = [first.taken(shared.of[rows]) for rows, _ in parts]
    for state, (_, tokens) in zip(states, parts, strict=True):
        state.read(tokens)
    (state,) = join(states)
    order = torch.cat([rows for rows, _ in parts])
    if not torch.equal(order, torch.arange(len(order), device=order.device)):
        state.select(order.argsort())
    return state


def join(states: Sequence[State]) -> list[State]:
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
    ids = _under_each_other([state.ids for state in states], 0)
    logits = torch.cat([state.logits for state in states])
    return [State(states[0].model, ids, kwargs, caches.join(held), logits)]


class Rows:
    """Main rows and the rows of their branches, in lock step; N main rows.

    Attention follows the plan in the main rows and is plain in the others.
    """

    def __init__(
        self,
        main: Prepared,
        branches: Sequence[Prepared] = (),
        plan: Plan | None = None,
        aside: Prepared | None = None,
        again: int | None = None,
    ) -> None:
        """Read all prompts.

        Args:
            main: The main ones.
            branches: Each branch's.
            plan: What attention follows in the main rows.
            aside: Read in lock step with the main prompts, for the plan to compare with.
            again: Read so many last tokens of the main prompts once more: one, or all.
        """
        self._owners: Tensor | None = None
        self.copies = 1 + len(branches)
        self._plans = [plan, *(None if plan is None else Plan((), plan.kinds) for _ in branches)]
        self._held = main.input_ids.shape[1]
        with active(plan), beside(plan, aside):
            states = [prefill_shared(main) if again is None else self._read_twice(main, plan, again)]
        with active(None):
            states += [prefill_shared(branch) for branch in branches]
        self._states = join(states)

    @property
    def logits(self) -> list[Tensor]:
        """Next-token logits of the main rows and of each branch, (N, vocabulary) float32 each."""
        if len(self._states) == 1:
            return list(self._states[0].logits.chunk(self.copies))
        return [state.logits for state in self._states]

    def _read_twice(self, main: Prepared, plan: Plan | None, again: int) -> State:
        if again == self._held:
            prefill(replace(main, cache=copy.deepcopy(main.cache)))
            with plan.again(0) if plan is not None else nullcontext():
                return prefill(main)
        state = prefill(main, past=True)
        with plan.again(self._held - again) if plan is not None else nullcontext():
            last = state.ids[:, -1]
            state.drop_last()
            state.step(last)
        return state

    @property
    def splittable(self) -> bool:
        """Whether `split` can be asked for."""
        return all(caches.splittable(state.cache) for state in self._states)

    def step(self, tokens: Tensor) -> None:
        """Feed each main row its next token, (N,), and its branches the same."""
        self._held += 1
        for state, copies, plan in self._blocks():
            with self._active(plan, copies), few_rows(copies > 1):
                state.step(tokens.repeat(copies))

    def reread(self, tokens: Tensor) -> None:
        """Feed each main row the next tokens of an answer in one pass, (N, tokens), and its branches the same."""
        self._held += tokens.shape[1]
        for state, copies, plan in self._blocks():
            with self._active(plan, copies), plan.reading(siblings=False) if plan else nullcontext():
                state.read(tokens.repeat(copies, 1))

    def split(self, tokens: Tensor) -> None:
        """Try several next tokens of each main row in one pass, (N, siblings), and the same in its branches.

        There must be a plan. `logits` are then (N, siblings, vocabulary), until `keep`.
        """
        self._tried, self._before = tokens, []
        for state, copies, plan in self._blocks():
            assert plan is not None
            with self._active(plan, copies), plan.reading(siblings=True):
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
        self._held += siblings is not None
        size = len(self._tried)
        for (state, copies, _), before in zip(self._blocks(), self._before, strict=True):
            chosen = None if siblings is None else siblings.repeat(copies)
            state.keep(before, _of_copies(rows, size, copies), chosen, tokens.repeat(copies), own)
        self._own(rows, size)
        self._rewind()

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder main rows by 0-based index, and their branches alike."""
        size = len(self.logits[0])
        self._own(rows, size)
        for state, copies, _ in self._blocks():
            state.select(_of_copies(rows, size, copies))

    def taken(self, rows: Tensor) -> Rows:
        """Copy main rows with their branches, by 0-based index; these rows stay as they are.

        Attention counts on from the copies: one of the two is to be stepped, until others are taken.
        """
        copied, size = copy.copy(self), len(self.logits[0])
        copied._states = [state.taken(_of_copies(rows, size, copies)) for state, copies, _ in self._blocks()]
        copied._own(rows, size)
        copied._rewind()
        return copied

    def _own(self, rows: Tensor, size: int) -> None:
        """Note which prompts the rows belong to that are picked from `size` rows."""
        owners = torch.arange(size, device=rows.device) if self._owners is None else self._owners
        self._owners = owners[rows]

    @contextmanager
    def _active(self, plan: Plan | None, copies: int) -> Iterator[None]:
        if plan is not None:
            plan.owners = self._owners
        with active(plan, copies):
            yield

    def _rewind(self) -> None:
        for plan in self._plans:
            if plan is not None:
                plan.rewind(self._held)

    def _blocks(self) -> list[tuple[State, int, Plan | None]]:
        """Return the states, how many copies of the main rows each holds, and the plan that its attention follows."""
        copies = self.copies if len(self._states) == 1 else 1
        return [(state, copies, plan) for state, plan in zip(self._states, self._plans, strict=False)]


def _of_copies(rows: Tensor, size: int, copies: int) -> Tensor:
    """Return where main rows and their branches stand in `copies` blocks of `size` rows."""
    return torch.cat([rows + size * copy for copy in range(copies)])


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
