"""Tensors that a request remembers from step to step, with a row for each row that is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mmhall.errors import CompositionError


class Memory:
    """Tensors by name, (rows, ...) each, that follow the rows wherever a search takes them.

    A search that reorders, repeats or drops rows does the same to their memory, and one that goes back to an earlier
    step gives back what was remembered there. To change a tensor, put a new one in its place: one that is edited in
    place would change what other rows remember.

    Names are shared by all strategies of a request: begin them with the strategy's own.
    """

    def __init__(self, held: Mapping[str, Tensor] | None = None, *, locked: bool = False) -> None:
        """Remember some tensors; with `locked`, they cannot be changed."""
        self._held, self._locked, self._prefix = dict(held or {}), locked, ""

    def part(self, number: int) -> Memory:
        """Return what one branch remembers: tensors of its own, which follow the rows with the others.

        Args:
            number: Of the branch, from 1; 0: the main rows and `combine`, whose names stand as they are.
        """
        if number == 0:
            return self
        part = Memory(locked=self._locked)
        part._held, part._prefix = self._held, f"branch {number}: "
        return part

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return self._prefix + name in self._held

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return (name.removeprefix(self._prefix) for name in self._held if name.startswith(self._prefix))

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor, (rows, ...)."""
        return self._held[self._prefix + name]

    def get(self, name: str) -> Tensor | None:
        """Return a tensor, (rows, ...); None: there is none of this name."""
        return self._held.get(self._prefix + name)

    def __setitem__(self, name: str, value: Tensor) -> None:
        """Remember a tensor, (rows, ...).

        Raises:
            CompositionError: Tokens are only tried in this pass, and what is remembered of them would be lost.
        """
        if self._locked:
            raise CompositionError(
                f"{name!r} cannot be remembered while a search tries several tokens after each row; use this strategy "
                "with greedy decoding, sampling, beams or another search"
            )
        self._held[self._prefix + name] = value

    def select(self, rows: Tensor, size: int) -> Memory:
        """Return the memory of some of `size` rows, by 0-based index, (N,); repeated or not.

        Raises:
            CompositionError: A tensor has another number of rows.
        """
        for name, value in self._held.items():
            if value.ndim == 0 or len(value) != size:
                shape = tuple(value.shape)
                raise CompositionError(f"{name!r} is remembered of {size} rows and must be ({size}, ...), got {shape}")
        return Memory({name: value[rows.to(value.device)] for name, value in self._held.items()})

    def copy(self) -> Memory:
        """Return a memory that goes on by itself."""
        return Memory(self._held)

    def read_only(self) -> Memory:
        """Return the same memory, which refuses to be changed."""
        return Memory(self._held, locked=True)

    @staticmethod
    def join(parts: Sequence[Memory]) -> Memory:
        """Put the rows of several memories under each other.

        Raises:
            CompositionError: They do not hold the same names.
        """
        unlike = {name for part in parts for name in parts[0]._held.keys() ^ part._held.keys()}
        if unlike:
            raise CompositionError(f"{min(unlike)!r} is remembered of some texts of a search and not of others")
        return Memory({name: torch.cat([part._held[name] for part in parts]) for name in parts[0]._held})
