"""Layers of key-value caches beside those of transformers: one that grows in place, one with dropped columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 64  # further positions that memory is taken for at a time


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer, in memory with room for further positions.

    A `DynamicLayer` concatenates in each step, which reads and writes the whole cache; here a step writes its own
    positions, and all are copied once in 64 steps. Whoever replaces `keys` and `values` needs no care: they are copied
    into memory with room at the next step. An exception is a shorter view from the first position on, as searches set
    it after candidate tokens: the next step writes over what it leaves out. `crop` does not: who held it keeps it.
    """

    keys: Any
    values: Any

    def __init__(self) -> None:
        """Create an empty layer."""
        super().__init__()
        self._room: tuple[Tensor | None, Tensor | None] = None, None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, (rows, KV, positions, D) each, and return all of them."""
        if key_states.requires_grad or value_states.requires_grad:
            updated: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return updated
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        key_room, value_room = self._room
        key_room, keys = _append(key_room, self.keys, key_states)
        value_room, values = _append(value_room, self.values, value_states)
        self._room, self.keys, self.values = (key_room, value_room), keys, values
        return keys, values

    def release(self) -> None:
        """Give up the memory with room, so that keys and values alone are held."""
        self._room = None, None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder rows, without holding the memory of the old ones beside the new."""
        self.release()
        super().reorder_cache(beam_idx)

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Drop the newest positions; the next step copies the others, as a view handed out before may be read on."""
        self.release()
        super().crop(*args, **kwargs)

    def reset(self) -> None:
        """Empty the layer."""
        self.release()
        self.keys = self.values = None  # older versions of transformers keep them as zeros
        self.is_initialized = False

    def __copy__(self) -> RoomyLayer:
        """Return a copy that shares keys and values; both write further ones elsewhere."""
        self.release()
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied


class ShortLayer(RoomyLayer):
    """Keys and values of a layer in which prompt tokens were dropped.

    Its reported length is that of the full sequence, so that positions and masks agree with the other layers; it has
    fewer columns, the newest last.

    Attributes:
        missing: Number of positions without a column.
    """

    def __init__(self, missing: int) -> None:
        """Create an empty layer for a sequence with `missing` positions left out."""
        super().__init__()
        self.missing = missing

    def get_seq_length(self) -> int:
        """Return the number of positions so far, dropped ones included."""
        columns = int(super().get_seq_length())
        return columns + self.missing if columns else 0

    def reset(self) -> None:
        """Empty the layer; no positions are missing any more."""
        super().reset()
        self.missing = 0


def _append(room: Tensor | None, held: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Write new positions behind those held, (rows, KV, positions, D); return the memory, and all positions in it."""
    length = held.shape[-2] if held.numel() else 0
    end = length + new.shape[-2]
    if room is None or room.shape[-2] < end or not _is_beginning(held, room):
        room = new.new_empty((*new.shape[:-2], end + ROOM, new.shape[-1]))
        if length:
            room[..., :length, :] = held
    room[..., length:end, :] = new
    return room, room[..., :end, :]


def _is_beginning(held: Tensor, room: Tensor) -> bool:
    """Whether positions lie at the beginning of some memory that may be written to."""
    return (
        held.data_ptr() == room.data_ptr()
        and held.stride() == room.stride()
        and held.shape[:-2] == room.shape[:-2]
        and (torch.is_inference_mode_enabled() or not room.is_inference())
    )
