"""The memory of key-value caches, layer by layer, at any number of positions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

from mmhall._transformers.cache_layers import ROOM, RoomyLayer, ShortLayer


@dataclass(frozen=True, slots=True)
class LayerSize:
    """The memory of one row in a layer of a cache.

    Attributes:
        position: Bytes for each position with a column.
        fixed: Bytes whatever the number of positions: recurrent states, keys of a picture.
        missing: Positions without a column.
        most: Most positions with a column; None: all.
        room: Further positions that memory may be taken for.
    """

    position: float = 0.0
    fixed: float = 0.0
    missing: int = 0
    most: int | None = None
    room: int = 0

    def bytes(self, columns: int) -> float:
        """Return the most bytes of a row at so many positions."""
        kept = columns - self.missing if self.most is None else min(columns, self.most)
        return self.fixed + self.position * (kept + self.room)

    def times(self, share: float) -> LayerSize:
        """Return the size of so many rows."""
        return replace(self, position=self.position * share, fixed=self.fixed * share)


def layer_sizes(cache: Cache) -> tuple[LayerSize, ...]:
    """Return the size of each layer that holds something, of a cache that has been written."""
    length = int(cache.get_seq_length())
    return tuple(size for layer in cache.layers for size in _sizes(layer, length))


def cache_bytes(sizes: tuple[LayerSize, ...], rows: int, columns: int) -> int:
    """Return the most bytes of a cache; one layer is there twice while its memory grows."""
    each = [size.bytes(columns) for size in sizes]
    return int(rows * (sum(each) + max(each, default=0.0)))


def bytes_now(cache: Cache) -> int:
    """Return the bytes that a cache takes, with all memory that it has room in."""
    tensors = [part for layer in cache.layers for part in _tensors(layer)]
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in tensors}.values())


def _tensors(layer: CacheLayerMixin) -> list[Tensor]:
    every = [getattr(layer, "keys", None), getattr(layer, "values", None)]
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        every += [*layer.conv_states.values(), *layer.recurrent_states.values()]
    return [part for part in every if part is not None]


def _sizes(layer: CacheLayerMixin, length: int) -> list[LayerSize]:
    found = []
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        states = [*layer.conv_states.values(), *layer.recurrent_states.values()]
        found.append(LayerSize(fixed=sum(_row(state) for state in states if state is not None)))
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if keys is None or values is None or not keys.numel():
        return found
    columns, room = keys.shape[2], ROOM if isinstance(layer, RoomyLayer) else 0
    position = (_row(keys) + _row(values)) / columns
    if layer.get_seq_length() != length:  # a cross layer, which holds the picture
        return [*found, LayerSize(fixed=position * (columns + room))]
    missing = layer.missing if isinstance(layer, ShortLayer) else 0
    return [*found, LayerSize(position, 0.0, missing, getattr(layer, "sliding_window", None), room)]


def _row(states: Tensor) -> float:
    return states.numel() / len(states) * states.element_size()
