"""Decode several variants of the input side by side.

Each branch reads its prompt on its own, so that a short prompt stays short. Their caches are then
joined, padded on the left to one length, and from there on every step is a single forward pass of
all rows: first the main rows, then each branch's, in the same order. Where caches cannot be joined
(a cross-attention model with and without its picture) the branches step one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from mmhall.attention import Plan, active, few_rows
from mmhall.errors import PromptError
from mmhall.generation import caches
from mmhall.generation.aside import beside
from mmhall.generation.prepare import Prepared

_BATCH_AXIS = {
    "attention_mask": 0,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
    "cross_attention_mask": 0,
    "position_ids": -2,  # M-RoPE puts an axis of (time, row, column) before it
}


@dataclass(slots=True)
class State:
    """Rows in the middle of decoding; R rows, T positions so far.

    Attributes:
        model: What decodes them.
        ids: Tokens read so far, (R, T).
        kwargs: Masks, position ids and the cache, as the model's `prepare_inputs_for_generation` takes them.
        logits: Next-token logits, (R, vocabulary) float32.
    """

    model: PreTrainedModel
    ids: Tensor
    kwargs: dict[str, Any]
    logits: Tensor

    def step(self, tokens: Tensor) -> None:
        """Feed every row its next token, (R,)."""
        last = CausalLMOutputWithPast(past_key_values=self.kwargs["past_key_values"])
        self.kwargs = self.model._update_model_kwargs_for_generation(last, self.kwargs, is_encoder_decoder=False)
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        prepared = self.model.prepare_inputs_for_generation(self.ids, next_sequence_length=1, **self.kwargs)
        outputs = self.model(**prepared, return_dict=True)
        self.kwargs["past_key_values"] = outputs.past_key_values
        self.logits = _last(outputs.logits, self.ids)

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows, by 0-based index."""
        self.ids, self.logits = self.ids[rows], self.logits[rows]
        for key, axis in _BATCH_AXIS.items():
            if self.kwargs.get(key) is not None:
                self.kwargs[key] = self.kwargs[key].index_select(axis, rows)
        self.kwargs["past_key_values"].reorder_cache(rows)


def read(prepared: Prepared) -> Any:
    """Run the model over a batch of prompts that `generate` has prepared; return its outputs.

    Raises:
        PromptError: There are more or fewer pictures than placeholders.
    """
    model = prepared.model
    inputs = model.prepare_inputs_for_generation(prepared.input_ids, is_first_iteration=True, **prepared.kwargs)
    try:
        return model(**inputs, return_dict=True)
    except ValueError as error:
        if "image tokens" not in str(error):
            raise
        raise PromptError(f"pictures and their placeholders in the prompt do not match: {error}") from error


def prefill(prepared: Prepared) -> State:
    """Read a batch of prompts, ready to take the first step."""
    model, ids, outputs = prepared.model, prepared.input_ids, read(prepared)
    kept = {
        key: value
        for key, value in {**prepared.kwargs, "past_key_values": outputs.past_key_values}.items()
        if key in _BATCH_AXIS or isinstance(value, Cache | bool | int | str)
    }
    return State(model, ids, kept, _last(outputs.logits, ids))


def join(states: Sequence[State]) -> list[State]:
    """Put the rows of all states under each other in one state, if their caches allow it; else return them as given."""
    held = [state.kwargs["past_key_values"] for state in states]
    if len(states) == 1 or not caches.joinable(held):
        return list(states)
    lengths = [state.ids.shape[1] for state in states]
    if len(set(lengths)) > 1 or any(state.kwargs.get("attention_mask") is not None for state in states):
        for state in states:
            if state.kwargs.get("attention_mask") is None:
                state.kwargs["attention_mask"] = torch.ones_like(state.ids)
    kwargs = {**states[0].kwargs, "past_key_values": caches.join(held)}
    for key, axis in _BATCH_AXIS.items():
        if kwargs.get(key) is not None:
            kwargs[key] = _under_each_other([state.kwargs[key] for state in states], axis)
    ids = _under_each_other([state.ids for state in states], 0)
    return [State(states[0].model, ids, kwargs, torch.cat([state.logits for state in states]))]


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
    ) -> None:
        """Read all prompts; `aside` in lock step with the main ones, for the plan to compare with."""
        self._plan, self.copies = plan, 1 + len(branches)
        with active(plan), beside(plan, aside):
            states = [prefill(main)]
        with active(None):
            states += [prefill(branch) for branch in branches]
        self._states = join(states)

    @property
    def logits(self) -> list[Tensor]:
        """Next-token logits of the main rows and of each branch, (N, vocabulary) float32 each."""
        if len(self._states) == 1:
            return list(self._states[0].logits.chunk(self.copies))
        return [state.logits for state in self._states]

    def step(self, tokens: Tensor) -> None:
        """Feed each main row its next token, (N,), and its branches the same."""
        together = len(self._states) == 1
        for index, state in enumerate(self._states):
            copies = self.copies if together else 1
            with active(self._plan if index == 0 else None, copies), few_rows(copies > 1):
                state.step(tokens.repeat(copies))

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder main rows by 0-based index, and their branches alike."""
        size = len(self.logits[0])
        if len(self._states) == 1:
            rows = torch.cat([rows + size * copy for copy in range(self.copies)])
        for state in self._states:
            state.select(rows)


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
