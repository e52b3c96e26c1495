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
        self._held, self._locked = dict(held or {}), locked

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._held)

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor, (rows, ...)."""
        return self._held[name]

    def get(self, name: str) -> Tensor | None:
        """Return a tensor, (rows, ...); None: there is none of this name."""
        return self._held.get(name)

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
        self._held[name] = value

    def selected(self, rows: Tensor) -> Memory:
        """Return the memory of some rows, by 0-based index, (N,); repeated or not."""
        return Memory({name: value[rows.to(value.device)] for name, value in self._held.items()})

    def copy(self) -> Memory:
        """Return a memory that goes on by itself."""
        return Memory(self._held)

    def read_only(self) -> Memory:
        """Return the same memory, which refuses to be changed."""
        return Memory(self._held, locked=True)

    @staticmethod
    def joined(parts: Sequence[Memory]) -> Memory:
        """Put the rows of several memories under each other; they hold the same names."""
        return Memory({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
