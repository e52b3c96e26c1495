"""Decode several variants of the input side by side, in one batch.

Each branch reads its prompt on its own, so that a short prompt stays short. Their caches are then
joined, padded on the left to one length, and from there on every step is a single forward pass of
all rows: first the main rows, then each branch's, in the same order.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationConfig, PreTrainedModel


@dataclass(slots=True)
class State:
    """Rows in the middle of decoding; R rows, T positions so far.

    Attributes:
        cache: Keys and values of every layer.
        mask: Which positions are real, (R, T) integer.
        positions: Position id of the newest token, (R,).
        logits: Next-token logits, (R, vocabulary) float32.
    """

    cache: Cache
    mask: Tensor
    positions: Tensor
    logits: Tensor


def prefill(model: PreTrainedModel, input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> State:
    """Read a batch of prompts that `generate` has prepared."""
    prepared = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
    outputs = model(**prepared, return_dict=True)
    mask = model_kwargs.get("attention_mask")
    mask = torch.ones_like(input_ids) if mask is None else mask
    return State(outputs.past_key_values, mask, mask.sum(dim=1) - 1, _last(outputs.logits))


def prepared_by_generate(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], config: GenerationConfig
) -> tuple[Tensor, dict[str, Any]]:
    """Let `generate` prepare inputs as if to decode them, and return them instead."""
    captured: list[tuple[Tensor, dict[str, Any]]] = []

    def capture(model: PreTrainedModel, input_ids: Tensor, **kwargs: Any) -> Tensor:
        own = {"logits_processor", "stopping_criteria", "generation_config", "synced_gpus", "streamer"}
        captured.append((input_ids, {k: v for k, v in kwargs.items() if k not in own}))
        return input_ids

    config = copy.deepcopy(config)
    config.max_length = None  # `generate` has derived it from the main prompt; max_new_tokens is what counts
    model.generate(**inputs, generation_config=config, custom_generate=capture)
    return captured[0]


def join(states: Sequence[State]) -> State:
    """Put the rows of several states under each other, left-padding their caches to one length.

    Full-attention caches only: a position in the padding is masked, never read.
    """
    if len(states) == 1:
        return states[0]
    length = max(state.mask.shape[1] for state in states)
    layers = []
    for parts in zip(*(state.cache.layers for state in states), strict=True):
        layers.append(
            tuple(
                torch.cat([torch.nn.functional.pad(t, (0, 0, length - t.shape[2], 0)) for t in tensors])
                for tensors in ([part.keys for part in parts], [part.values for part in parts])
            )
        )
    cache = DynamicCache()
    for index, (keys, values) in enumerate(layers):
        cache.update(keys, values, index)
    masks = [torch.nn.functional.pad(state.mask, (length - state.mask.shape[1], 0)) for state in states]
    return State(
        cache, torch.cat(masks), torch.cat([s.positions for s in states]), torch.cat([s.logits for s in states])
    )


def step(model: PreTrainedModel, state: State, tokens: Tensor) -> None:
    """Feed every row its next token, (R,), and update the state in place."""
    state.mask = torch.nn.functional.pad(state.mask, (0, 1), value=1)
    state.positions = state.positions + 1
    outputs = model(
        input_ids=tokens[:, None],
        attention_mask=state.mask,
        position_ids=state.positions[:, None],
        past_key_values=state.cache,
        use_cache=True,
        return_dict=True,
    )
    state.cache, state.logits = outputs.past_key_values, _last(outputs.logits)


def _last(logits: Tensor) -> Tensor:
    return logits[:, -1].float()
