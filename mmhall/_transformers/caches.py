"""Caches joined, copied, and rid of tokens that were only tried."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, StaticCache
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from mmhall.errors import CompositionError, ModelError


def check_readable(cache: Cache | None) -> None:
    """Refuse a cache whose columns mmhall cannot tell the positions of.

    Raises:
        ModelError: It is of such a kind; the message names it.
    """
    if isinstance(cache, EncoderDecoderCache):
        raise ModelError(f"{type(cache).__name__}: mmhall reads and steers decoders without an encoder of text only")


def is_fixed(cache: Cache | None) -> bool:
    """Whether a cache holds as many columns from the start as it ever will; those not yet written are masked."""
    return isinstance(cache, StaticCache)


class ShortLayer(DynamicLayer):
    """Keys and values of a layer that was not given all positions of a prompt.

    Its length is that of the sequence, so that positions and masks are those of the whole model; its columns are
    fewer, the newest last.

    Attributes:
        missing: Positions that have no column.
    """

    def __init__(self, missing: int) -> None:
        """Be empty, and get ready for a sequence with so many positions left out."""
        super().__init__()
        self.missing = missing

    def get_seq_length(self) -> int:
        """Return how many positions were seen."""
        held = int(super().get_seq_length())
        return held + self.missing if held else 0

    def reset(self) -> None:
        """Be empty, and hold all positions from now on."""
        self.keys = self.values = None  # older versions of transformers keep them, as zeros
        self.is_initialized, self.missing = False, 0


_BY_POSITION = {DynamicLayer, DynamicSlidingWindowLayer, ShortLayer}  # they hold a column for each position, or most


def shorten(cache: Cache | None, layer: int, missing: int) -> None:
    """Let a layer of an empty cache hold fewer columns than there are positions; it must be given them in this pass.

    A sliding layer then keeps also what leaves its window; the mask leaves it out.

    Args:
        cache: None: nothing is kept anyway.
        layer: 0-based.
        missing: Positions that have no column.

    Raises:
        ModelError: The layer's cache is of another kind than dynamic.
    """
    if cache is None:
        return
    if type(cache) is DynamicCache and not cache.offloading:
        while len(cache.layers) <= layer:  # made without a config, it adds layers as they are written
            cache.layers.append(DynamicLayer())
        if type(cache.layers[layer]) in _BY_POSITION:
            cache.layers[layer] = ShortLayer(missing)
            return
        kind = type(cache.layers[layer]).__name__
    else:
        kind = "offloaded DynamicCache" if type(cache) is DynamicCache else type(cache).__name__
    raise ModelError(f"tokens cannot be dropped from layer {layer} of a cache of kind {kind}; use a dynamic cache")


def count_columns(cache: Cache | None, layer: int) -> int:
    """Return how many key columns a layer holds that dropped tokens.

    Raises:
        ModelError: It did not.
    """
    held = cache.layers[layer] if cache is not None and layer < len(cache.layers) else None
    if type(held) is not ShortLayer or held.keys is None:
        raise ModelError(
            f"layer {layer} has read this prompt without dropping tokens; read it anew with the ops that drop them"
        )
    return int(held.keys.shape[2])


def replace_newest(cache: Cache | None, layer: int, rows: slice, keys: Tensor, values: Tensor) -> None:
    """Put other keys and values of the newest positions into a layer of a cache, in place.

    Args:
        cache: Which the positions were just written to.
        layer: 0-based.
        rows: Of the batch.
        keys: (rows, KV, positions, D).
        values: (rows, KV, positions, Dv).

    Raises:
        CompositionError: The layer does not keep single positions to go back to.
    """
    held: Any = cache.layers[layer] if cache is not None else None
    if type(held) not in (DynamicLayer, ShortLayer) or cache is None or cache.offloading:
        kind = type(held if type(cache) is DynamicCache else cache).__name__
        kind = f"{type(cache).__name__}, offloaded" if cache is not None and cache.offloading else kind
        raise CompositionError(
            f"keys and values of layer {layer} cannot be replaced in a cache of kind {kind}: it needs a dynamic cache "
            "that keeps every position; choose layers of full attention"
        )
    held.keys[rows, :, -keys.shape[2] :] = keys.to(held.keys)
    held.values[rows, :, -values.shape[2] :] = values.to(held.values)


def can_join(caches: Sequence[DynamicCache]) -> bool:
    """Whether every layer of every cache holds keys that can be padded on the left, or a state without positions.

    A layer of cross-attention holds as many keys as there are image positions: it can be joined where
    all caches have equally many, not with a prompt that has no picture.
    """
    stacks = [cache.layers for cache in caches]
    if any(type(cache) is not DynamicCache for cache in caches) or len({len(layers) for layers in stacks}) > 1:
        return False
    lengths = [cache.get_seq_length() for cache in caches]
    for layers in zip(*stacks, strict=True):
        kinds = {type(layer) for layer in layers}
        if kinds == {LinearAttentionLayer} or all(_holds_nothing(layer) for layer in layers):
            continue
        if not kinds <= _BY_POSITION or len(kinds - {ShortLayer}) > 1 or any(_holds_nothing(layer) for layer in layers):
            return False
        held = [layer.get_seq_length() for layer in layers]
        if held != lengths and len(set(held)) > 1:
            return False
    return True


def join(caches: Sequence[DynamicCache]) -> DynamicCache:
    """Put the rows of all caches into the first, padding shorter ones on the left; they must be `can_join`.

    A position in the padding must be masked from then on. The other caches are used up.
    """
    stacks = zip(*(cache.layers for cache in caches), strict=True)
    caches[0].layers = [_joined_layer(layers) for layers in stacks]
    return caches[0]


def copy_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """Copy some rows of a cache, repeated or not; the cache itself stays as it is."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in copied.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.conv_states, layer.recurrent_states = dict(layer.conv_states), dict(layer.recurrent_states)
    copied.reorder_cache(rows)
    return copied


def can_split(cache: DynamicCache) -> bool:
    """Whether tokens can be tried side by side: every layer holds a key for each position, or none at all."""
    recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
    if type(cache) is not DynamicCache or recurrent:
        return False
    return all(type(layer) in _BY_POSITION or _holds_nothing(layer) for layer in cache.layers)


def record_lengths(cache: DynamicCache) -> list[int]:
    """Return how many positions each layer has seen, and have sliding layers hold on to what the next pass drops."""
    cache.activate_past_recording()
    return [0 if _holds_nothing(layer) else layer.get_seq_length() for layer in cache.layers]


def keep_rows(
    cache: DynamicCache, before: Sequence[int], rows: Tensor, candidates: Tensor | None, own: int | None = None
) -> None:
    """Make new rows, each of an old one and one of the tokens it was fed side by side.

    Args:
        cache: Fed tokens since `record_lengths` was asked.
        before: What `record_lengths` said.
        rows: 0-based, of each new row, (N,).
        candidates: 0-based, of each new row, (N,); None: the tokens are all dropped.
        own: Only so many of the newest positions, siblings apart, differ between a row and the one it replaces, and
            there are as many rows as before; None: any may.
    """
    for layer, length in zip(cache.layers, before, strict=True):
        if _holds_nothing(layer):
            continue
        grown = layer.get_seq_length() - length
        if grown == 0:  # across: it holds the picture
            if own is None:
                layer.reorder_cache(rows)
            continue
        held = layer.keys.shape[2] - grown
        first = 0 if own is None else max(0, held - own)
        layer.keys = _kept(layer.keys, first, held, rows, candidates)
        layer.values = _kept(layer.values, first, held, rows, candidates)
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length, layer.record_past = length + (candidates is not None), False
            layer.keys = layer.keys[:, :, -layer.sliding_window + 1 :]
            layer.values = layer.values[:, :, -layer.sliding_window + 1 :]


def drop_last(cache: DynamicCache, length: int) -> None:
    """Drop the last of `length` positions; `record_lengths` must have been asked before they were read."""
    for layer in cache.layers:
        if _holds_nothing(layer) or layer.get_seq_length() != length:
            continue  # across: it holds the picture
        layer.keys, layer.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length, layer.record_past = length - 1, False
            layer.keys = layer.keys[:, :, -layer.sliding_window + 1 :]
            layer.values = layer.values[:, :, -layer.sliding_window + 1 :]


def _kept(states: Tensor, first: int, held: int, rows: Tensor, candidates: Tensor | None) -> Tensor:
    """Keep columns up to `held` of some rows, and one sibling of each: (R, heads, K, size) to (N, ...).

    Columns before `first`, most of them the prompt's, stay where they are: to copy them would take as long as to read
    all weights.
    """
    newest = None if candidates is None else states[rows, :, held + candidates]
    if first == 0:
        states = states.index_select(0, rows)
    else:
        states[:, :, first:held] = states[:, :, first:held].index_select(0, rows)
    if newest is None:
        return states[:, :, :held]
    states[:, :, held] = newest
    return states[:, :, : held + 1]


def _joined_layer(layers: Sequence[CacheLayerMixin]) -> CacheLayerMixin:
    first = layers[0]
    if isinstance(first, LinearAttentionCacheLayerMixin):
        for states in (first.conv_states, first.recurrent_states):
            for index, state in states.items():
                if state is not None:
                    held = "conv_states" if states is first.conv_states else "recurrent_states"
                    states[index] = torch.cat([getattr(layer, held)[index] for layer in layers])
        return first
    if _holds_nothing(first) or not first.is_initialized:
        return first
    seen, length = max(layer.get_seq_length() for layer in layers), max(layer.keys.shape[2] for layer in layers)
    joined = next((layer for layer in layers if isinstance(layer, ShortLayer)), first)
    joined.keys, joined.values = (
        torch.cat([_padded(getattr(layer, part), length) for layer in layers]) for part in ("keys", "values")
    )
    if isinstance(joined, ShortLayer):
        joined.missing = seen - length
    elif isinstance(joined, DynamicSlidingWindowLayer):
        joined.cumulative_length = seen
    return joined


def _holds_nothing(layer: CacheLayerMixin) -> bool:
    """Whether it stands for a layer that reads the keys of another one."""
    return getattr(layer, "is_initialized", False) and layer.keys is None


def _padded(states: Tensor, length: int) -> Tensor:
    missing = length - states.shape[2]
    return torch.nn.functional.pad(states, (0, 0, missing, 0)) if missing else states
