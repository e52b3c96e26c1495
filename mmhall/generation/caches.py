"""Caches of several batches put under each other: the one place that looks inside transformers' cache layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)


def joinable(caches: Sequence[DynamicCache]) -> bool:
    """Whether every layer of every cache holds keys that can be padded on the left, or a state without positions.

    A layer of cross-attention holds as many keys as there are image positions: it can be joined where
    all caches have equally many, not with a prompt that has no picture.
    """
    stacks = [cache.layers for cache in caches]
    if any(type(cache) is not DynamicCache for cache in caches) or len({len(layers) for layers in stacks}) > 1:
        return False
    lengths = [cache.get_seq_length() for cache in caches]
    for layers in zip(*stacks, strict=True):
        if len({type(layer) for layer in layers}) > 1:
            return False
        if type(layers[0]) is LinearAttentionLayer or _holds_nothing(layers[0]):
            continue
        if type(layers[0]) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return False
        held = [layer.get_seq_length() for layer in layers]
        if held != lengths and len(set(held)) > 1:
            return False
    return True


def join(caches: Sequence[DynamicCache]) -> DynamicCache:
    """Put the rows of all caches into the first, padding shorter ones on the left; they must be `joinable`.

    A position in the padding must be masked from then on. The other caches are used up.
    """
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        _join_layers(layers)
    return caches[0]


def _join_layers(layers: Sequence[CacheLayerMixin]) -> None:
    first = layers[0]
    if isinstance(first, LinearAttentionCacheLayerMixin):
        for states in (first.conv_states, first.recurrent_states):
            for index, state in states.items():
                if state is not None:
                    held = "conv_states" if states is first.conv_states else "recurrent_states"
                    states[index] = torch.cat([getattr(layer, held)[index] for layer in layers])
        return
    if _holds_nothing(first) or not first.is_initialized:
        return
    length = max(layer.keys.shape[2] for layer in layers)
    first.keys = torch.cat([_padded(layer.keys, length) for layer in layers])
    first.values = torch.cat([_padded(layer.values, length) for layer in layers])
    if isinstance(first, DynamicSlidingWindowLayer):
        first.cumulative_length = max(layer.cumulative_length for layer in layers)


def _holds_nothing(layer: CacheLayerMixin) -> bool:
    """Whether it stands for a layer that reads the keys of another one."""
    return getattr(layer, "is_initialized", False) and layer.keys is None


def _padded(states: Tensor, length: int) -> Tensor:
    missing = length - states.shape[2]
    return torch.nn.functional.pad(states, (0, 0, missing, 0)) if missing else states
