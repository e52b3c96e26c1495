"""Operations on key-value caches: join, copy, shorten, and remove candidate tokens."""

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

from mmhall._transformers.cache_layers import RoomyLayer, ShortLayer
from mmhall.errors import CompositionError, ModelError


def check_readable(cache: Cache | None) -> None:
    """Check that the positions of a cache's columns can be known.

    Raises:
        ModelError: The cache is of an unsupported kind.
    """
    if isinstance(cache, EncoderDecoderCache):
        raise ModelError(f"{type(cache).__name__}: mmhall supports only models without a text encoder")


def is_fixed(cache: Cache | None) -> bool:
    """Whether a cache is static: it has all its columns from the start, and those not yet written are masked."""
    return isinstance(cache, StaticCache)


# layers with one column for each position, or for most of them
_BY_POSITION = {RoomyLayer, DynamicLayer, DynamicSlidingWindowLayer, ShortLayer}


def give_room(cache: Cache) -> None:
    """Let the layers of an empty dynamic cache grow in place; see `RoomyLayer`. Other caches do not change."""
    if type(cache) is not DynamicCache or cache.offloading:
        return
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer and not layer.is_initialized else layer for layer in cache.layers
    ]
    if cache.layer_class_to_replicate is DynamicLayer:  # layers are added when they are written
        cache.layer_class_to_replicate = RoomyLayer


def shorten(cache: Cache | None, layer: int, missing: int) -> None:
    """Replace a layer of an empty cache by one with fewer columns than positions, before this pass fills it.

    A sliding layer then also keeps columns outside its window; the mask hides them.

    Args:
        cache: The cache; None: no cache.
        layer: 0-based.
        missing: Number of positions without a column.

    Raises:
        ModelError: The cache of the layer is not dynamic.
    """
    if cache is None:
        return
    if type(cache) is DynamicCache and not cache.offloading:
        while len(cache.layers) <= layer:  # a cache without a config adds layers when they are written
            cache.layers.append(RoomyLayer())
        if type(cache.layers[layer]) in _BY_POSITION:
            cache.layers[layer] = ShortLayer(missing)
            return
        kind = type(cache.layers[layer]).__name__
    else:
        kind = "offloaded DynamicCache" if type(cache) is DynamicCache else type(cache).__name__
    raise ModelError(f"tokens cannot be dropped from layer {layer} of a cache of kind {kind}; use a dynamic cache")


def count_columns(cache: Cache | None, layer: int) -> int:
    """Return the number of key columns of a layer in which tokens were dropped.

    Raises:
        ModelError: No tokens were dropped in the layer.
    """
    stored = cache.layers[layer] if cache is not None and layer < len(cache.layers) else None
    if type(stored) is not ShortLayer or stored.keys is None:
        raise ModelError(
            f"layer {layer} has read this prompt without dropping tokens; read it again with the ops that drop them"
        )
    return int(stored.keys.shape[2])


def replace_newest(cache: Cache | None, layer: int, rows: slice, keys: Tensor, values: Tensor) -> None:
    """Replace keys and values of the newest positions in a layer of a cache, in place.

    Args:
        cache: Cache to which the positions were just written.
        layer: 0-based.
        rows: Rows of the batch.
        keys: (rows, KV, positions, D).
        values: (rows, KV, positions, Dv).

    Raises:
        CompositionError: The layer does not store every position as a column.
    """
    stored: Any = cache.layers[layer] if cache is not None else None
    if type(stored) not in (RoomyLayer, DynamicLayer, ShortLayer) or cache is None or cache.offloading:
        kind = type(stored if type(cache) is DynamicCache else cache).__name__
        kind = f"{type(cache).__name__}, offloaded" if cache is not None and cache.offloading else kind
        raise CompositionError(
            f"keys and values of layer {layer} cannot be replaced in a cache of kind {kind}: it needs a dynamic cache "
            "that keeps every position; choose layers of full attention"
        )
    stored.keys[rows, :, -keys.shape[2] :] = keys.to(stored.keys)
    stored.values[rows, :, -values.shape[2] :] = values.to(stored.values)


def can_join(caches: Sequence[DynamicCache]) -> bool:
    """Whether caches can be joined: all layers have keys, which can be padded, or a state without positions.

    A cross-attention layer has one key for each image position: it can be joined where all caches have the same
    number of keys, not with a prompt without a picture.
    """
    stacks = [cache.layers for cache in caches]
    if any(type(cache) is not DynamicCache for cache in caches) or len({len(layers) for layers in stacks}) > 1:
        return False
    lengths = [cache.get_seq_length() for cache in caches]
    for layers in zip(*stacks, strict=True):
        kinds = {type(layer) for layer in layers}
        if kinds == {LinearAttentionLayer} or all(_shares_keys(layer) for layer in layers):
            continue
        if not kinds <= _BY_POSITION or len(kinds - {ShortLayer}) > 1 or any(_shares_keys(layer) for layer in layers):
            return False
        counts = [layer.get_seq_length() for layer in layers]
        if counts != lengths and len(set(counts)) > 1:
            return False
    return True


def join(caches: Sequence[DynamicCache], places: Sequence[int] | None = None) -> DynamicCache:
    """Collect the rows of all caches in the first one, padding shorter ones on the left; see `can_join`.

    Positions in the padding must be masked from then on. The other caches cannot be used any more.

    Args:
        caches: The caches.
        places: 0-based place of each row, cache after cache; None: as they come.
    """
    stacks = zip(*(cache.layers for cache in caches), strict=True)
    caches[0].layers = [_join_layers(layers, places) for layers in stacks]
    return caches[0]


def copy_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """Copy some rows of a cache, which may repeat; the cache itself does not change."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in copied.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.conv_states, layer.recurrent_states = dict(layer.conv_states), dict(layer.recurrent_states)
    copied.reorder_cache(rows)
    return copied


def can_split(cache: DynamicCache) -> bool:
    """Whether candidate tokens can be read in one pass: each layer has a key for each position, or no keys."""
    recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
    if type(cache) is not DynamicCache or recurrent:
        return False
    return all(type(layer) in _BY_POSITION or _shares_keys(layer) for layer in cache.layers)


def record_lengths(cache: DynamicCache) -> list[int]:
    """Return the number of positions of each layer; sliding layers then keep what the next pass would drop."""
    cache.activate_past_recording()
    return [0 if _shares_keys(layer) else layer.get_seq_length() for layer in cache.layers]


def keep_rows(
    cache: DynamicCache, before: Sequence[int], rows: Tensor, candidates: Tensor | None, recent: int | None = None
) -> None:
    """Build new rows, each from an old row and one of its candidate tokens.

    Args:
        cache: The cache, after a pass over candidate tokens.
        before: Result of `record_lengths` before that pass.
        rows: 0-based old row of each new row, (N,).
        candidates: 0-based candidate token of each new row, (N,); None: all candidate tokens are dropped.
        recent: Number of newest positions, without candidate tokens, in which a new row may differ from the old row
            with the same index; the number of rows must not change. None: all positions may differ.
    """
    for layer, length in zip(cache.layers, before, strict=True):
        if _shares_keys(layer):
            continue
        added = layer.get_seq_length() - length
        if added == 0:  # a cross layer, which holds the picture
            if recent is None:
                layer.reorder_cache(rows)
            continue
        columns = layer.keys.shape[2] - added
        first = 0 if recent is None else max(0, columns - recent)
        layer.keys = _select_rows(layer.keys, first, columns, rows, candidates)
        layer.values = _select_rows(layer.values, first, columns, rows, candidates)
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length, layer.record_past = length + (candidates is not None), False
            layer.keys = layer.keys[:, :, -layer.sliding_window + 1 :]
            layer.values = layer.values[:, :, -layer.sliding_window + 1 :]


def drop_last(cache: DynamicCache, length: int) -> None:
    """Drop the last of `length` positions; `record_lengths` must have been called before the pass that wrote it."""
    for layer in cache.layers:
        if _shares_keys(layer) or layer.get_seq_length() != length:
            continue  # a cross layer, which holds the picture
        layer.keys, layer.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length, layer.record_past = length - 1, False
            layer.keys = layer.keys[:, :, -layer.sliding_window + 1 :]
            layer.values = layer.values[:, :, -layer.sliding_window + 1 :]


def drop_first(cache: DynamicCache, count: int, length: int) -> None:
    """Drop the first `count` of `length` positions, which are padding in every row."""
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin) or _shares_keys(layer):
            continue
        if layer.get_seq_length() != length:
            continue  # a cross layer, which holds the picture
        columns = layer.keys.shape[2]
        kept = min(columns, length - count)
        layer.keys, layer.values = layer.keys[:, :, columns - kept :], layer.values[:, :, columns - kept :]
        if isinstance(layer, ShortLayer):
            layer.missing = length - count - kept
        elif isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = length - count


def _select_rows(states: Tensor, first: int, columns: int, rows: Tensor, candidates: Tensor | None) -> Tensor:
    """Select `columns` columns of some rows, and one candidate token of each: (R, heads, K, size) to (N, ...).

    Columns before `first`, mostly those of the prompt, are not copied: copying them would take as long as reading all
    weights.
    """
    newest = None if candidates is None else states[rows, :, columns + candidates]
    if first == 0:
        states = states.index_select(0, rows)
    else:
        states[:, :, first:columns] = states[:, :, first:columns].index_select(0, rows)
    if newest is None:
        return states[:, :, :columns]
    states[:, :, columns] = newest
    return states[:, :, : columns + 1]


def _join_layers(layers: Sequence[CacheLayerMixin], places: Sequence[int] | None) -> CacheLayerMixin:
    first = layers[0]
    if isinstance(first, LinearAttentionCacheLayerMixin):
        for states in (first.conv_states, first.recurrent_states):
            for index, state in states.items():
                if state is not None:
                    name = "conv_states" if states is first.conv_states else "recurrent_states"
                    joined = torch.cat([getattr(layer, name)[index] for layer in layers])
                    if places is not None:
                        joined = joined[torch.tensor(places, device=joined.device).argsort()]
                    states[index] = joined
        return first
    if _shares_keys(first) or not first.is_initialized:
        return first
    positions, length = max(layer.get_seq_length() for layer in layers), max(layer.keys.shape[2] for layer in layers)
    joined = next((layer for layer in layers if isinstance(layer, ShortLayer)), first)
    joined.keys, joined.values = (
        _collect([getattr(layer, part) for layer in layers], length, places) for part in ("keys", "values")
    )
    for layer in layers:  # or all layers would be there twice before the last one is joined
        if isinstance(layer, RoomyLayer):
            layer.release()
        if layer is not joined:
            layer.keys = layer.values = None
    if isinstance(joined, ShortLayer):
        joined.missing = positions - length
    elif isinstance(joined, DynamicSlidingWindowLayer):
        joined.cumulative_length = positions
    return joined


def _shares_keys(layer: CacheLayerMixin) -> bool:
    """Whether a cache layer belongs to a decoder layer that reads the keys of another layer."""
    return getattr(layer, "is_initialized", False) and layer.keys is None


def _collect(parts: Sequence[Tensor], length: int, places: Sequence[int] | None) -> Tensor:
    """Collect keys or values, (rows, heads, columns, size) each, padded on the left to a length, in one copy."""
    first, (_, heads, _, size) = 0, parts[0].shape
    joined = parts[0].new_empty(sum(map(len, parts)), heads, length, size)
    order = range(len(joined)) if places is None else places
    for part in parts:
        own, gap = order[first : first + len(part)], length - part.shape[2]
        together = [*own] == [*range(own[0], own[0] + len(own))]  # a slice is faster
        rows = slice(own[0], own[0] + len(own)) if together else torch.tensor(own, device=joined.device)
        joined[rows, :, :gap] = 0
        joined[rows, :, gap:] = part
        first += len(part)
    return joined
