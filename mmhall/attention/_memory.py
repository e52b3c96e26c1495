"""Tensors that ops keep from step to step, with one row for each decoded row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mmhall.errors import CompositionError


class Memory:
    """Tensors by name, (rows, ...) each, that follow the rows of a search.

    A search that reorders, repeats or drops rows does the same to these tensors; a search that goes back to an
    earlier step restores the tensors of that step. To change a tensor, assign a new one: an in-place edit would
    also change the memory of other rows.

    All strategies of a request share the names: begin each name with the name of the strategy.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None, *, locked: bool = False) -> None:
        """Store some tensors; with `locked`, they cannot be changed."""
        self._tensors, self._locked, self._prefix = dict(tensors or {}), locked, ""

    def part(self, number: int) -> Memory:
        """Return the memory of one branch: tensors of its own, stored beside the others.

        Args:
            number: Number of the branch, from 1; 0: the main rows and `combine`, whose names have no prefix.
        """
        if number == 0:
            return self
        part = Memory(locked=self._locked)
        part._tensors, part._prefix = self._tensors, f"branch {number}: "
        return part

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor with this name."""
        return self._prefix + name in self._tensors

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return (name.removeprefix(self._prefix) for name in self._tensors if name.startswith(self._prefix))

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor, (rows, ...)."""
        return self._tensors[self._prefix + name]

    def get(self, name: str) -> Tensor | None:
        """Return a tensor, (rows, ...), or None where there is none with this name."""
        return self._tensors.get(self._prefix + name)

    def __setitem__(self, name: str, value: Tensor) -> None:
        """Store a tensor, (rows, ...).

        Raises:
            CompositionError: This pass only tries candidate tokens, so a stored tensor would be lost.
        """
        if self._locked:
            raise CompositionError(
                f"{name!r} cannot be stored in memory while a search tries candidate tokens; the strategy that stores "
                "it needs greedy decoding, sampling, beams or another search"
            )
        self._tensors[self._prefix + name] = value

    def select(self, rows: Tensor, size: int) -> Memory:
        """Return the memory of some rows, which may repeat.

        Args:
            rows: 0-based indices, (N,).
            size: Number of rows that every tensor must have.

        Raises:
            CompositionError: A tensor has another number of rows.
        """
        for name, value in self._tensors.items():
            if value.ndim == 0 or len(value) != size:
                shape = tuple(value.shape)
                raise CompositionError(f"{name!r} in memory must have {size} rows, shape ({size}, ...), got {shape}")
        return Memory({name: value[rows.to(value.device)] for name, value in self._tensors.items()})

    def copy(self) -> Memory:
        """Return an independent copy."""
        return Memory(self._tensors)

    def read_only(self) -> Memory:
        """Return a copy that cannot be changed."""
        return Memory(self._tensors, locked=True)

    @staticmethod
    def join(parts: Sequence[Memory]) -> Memory:
        """Concatenate the rows of several memories.

        Raises:
            CompositionError: The memories do not have the same names.
        """
        unlike = {name for part in parts for name in parts[0]._tensors.keys() ^ part._tensors.keys()}
        if unlike:
            raise CompositionError(f"{min(unlike)!r} is in the memory of some texts of a search, but not of others")
        return Memory({name: torch.cat([part._tensors[name] for part in parts]) for name in parts[0]._tensors})
