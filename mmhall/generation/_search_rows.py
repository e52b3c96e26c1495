"""Rows of a search in a batch that it shares with other searches, and what a search requests for them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from mmhall.attention import Memory
from mmhall.errors import CompositionError
from mmhall.generation._branches import DecodeBatch


class SearchRows:
    """The rows of one search, N of them, in a batch with those of other searches.

    Attributes:
        batch: The batch; None: the search has given up these rows.
        index: Where they stand in it, (N,) 0-based, ascending.
    """

    def __init__(self, batch: SharedBatch, index: Tensor) -> None:
        """Stand somewhere in a batch."""
        self.batch: SharedBatch | None = batch
        self.index = index

    @property
    def size(self) -> int:
        """Number of rows, N."""
        return len(self.index)

    @property
    def shared(self) -> SharedBatch:
        """The batch.

        Raises:
            CompositionError: The search has given up these rows.
        """
        if self.batch is None:
            raise CompositionError(
                "a search uses rows after it asked for something else, and has so given them up; read their texts "
                "again with `resume`"
            )
        return self.batch

    @property
    def memory(self) -> Memory:
        """An independent copy of what ops and the combination have stored about these rows."""
        return self.shared.rows.memory.select(self.index, self.shared.rows.size)

    @property
    def logits(self) -> list[Tensor]:
        """Next-token logits of these rows and of each branch, (N, vocabulary); after `Split` of each candidate."""
        return [self.own(part) for part in self.shared.rows.logits]

    def scores(self) -> Tensor:
        """Return next-token scores, (N, vocabulary) float32."""
        return self.own(self.shared.scores())

    def own(self, values: Tensor) -> Tensor:
        """Return these rows of what an op has stored about all rows of the latest pass, (rows, ...)."""
        return values if self.size == len(values) else values[self.index.to(values.device)]

    def set_apart(self) -> None:
        """Move these rows to a batch of their own."""
        shared = self.shared
        shared.parts = [part for part in shared.parts if part is not self]
        self.batch = SharedBatch(shared.rows.taken(self.index))
        self.index = torch.arange(self.size, device=shared.device)
        self.batch.parts = [self]


class SharedBatch:
    """Rows of several searches at the same length.

    Attributes:
        rows: The rows.
        parts: The rows of each search that still needs them, in order. A search that has ended, and holds its rows no
            longer, needs none: the batch and its caches are freed with the last rows, not when Python collects cycles.
    """

    def __init__(self, rows: DecodeBatch) -> None:
        """Begin with rows that belong to no search."""
        self.rows = rows
        self._parts: list[ref[SearchRows]] = []
        self._scores: Tensor | None = None

    @property
    def parts(self) -> list[SearchRows]:
        """See above."""
        return [part for each in self._parts if (part := each()) is not None]

    @parts.setter
    def parts(self, parts: Sequence[SearchRows]) -> None:
        self._parts = list(map(ref, parts))

    def hand_out(self, sizes: Sequence[int]) -> list[SearchRows]:
        """Give each search its rows, by their number."""
        parts = [SearchRows(self, index) for index in self._places(sizes)]
        self.parts = parts
        return parts

    @property
    def device(self) -> torch.device:
        """Device of the tokens."""
        return self.rows.said.device

    @property
    def length(self) -> int:
        """Number of answer tokens."""
        return int(self.rows.said.shape[1])

    def scores(self) -> Tensor:
        """Return next-token scores of all rows, combined once after each pass."""
        if self._scores is None:
            self._scores = self.rows.scores()
        return self._scores

    def pick(self, chosen: Sequence[tuple[SearchRows, Tensor | None]]) -> Tensor:
        """Give the rows of searches that go on new places; return their old ones, 0-based.

        Args:
            chosen: The searches' rows, each with those of them that go on, by 0-based index; None: all.
        """
        old = [part.index if rows is None else part.index[rows] for part, rows in chosen]
        for (part, _), index in zip(chosen, self._places(map(len, old)), strict=True):
            part.index = index
        self.only([part for part, _ in chosen])
        return torch.cat([*old, torch.empty(0, dtype=torch.long, device=self.device)])

    def leave(self, chosen: Sequence[tuple[SearchRows, Tensor | None]]) -> None:
        """Let rows stay where they are, and those that do not go on be idle; arguments as in `pick`."""
        for part, rows in chosen:
            part.index = part.index if rows is None else part.index[rows]
        self.only([part for part, _ in chosen])

    def only(self, parts: Sequence[SearchRows]) -> None:
        """Take the rows of all other searches from them."""
        for part in self.parts:
            if part not in parts:
                part.batch = None
        self.parts, self._scores = list(parts), None

    def spread(self, tokens: Sequence[Tensor]) -> Tensor:
        """Return tokens of all rows from those of each search; idle rows get token 0."""
        if tokens and len(tokens[0]) == self.rows.size:
            return tokens[0]
        shape = tokens[0].shape[1:] if tokens else ()
        spread = torch.zeros(self.rows.size, *shape, dtype=torch.long, device=self.device)
        for part, own in zip(self.parts, tokens, strict=True):
            spread[part.index] = own
        return spread

    def _places(self, sizes: Iterable[int]) -> list[Tensor]:
        """Return places one after the other, by their numbers."""
        ends = [0, *accumulate(sizes)]
        return [torch.arange(first, last, device=self.device) for first, last in pairwise(ends)]

    def hand_on(self) -> SharedBatch:
        """Move to a copy of the rows, and return a batch of the old ones that belong to no search."""
        left = SharedBatch(self.rows)
        self.rows = self.rows.taken(torch.arange(self.rows.size, device=self.device))
        return left

    def take_over(self, other: SharedBatch, first: int) -> None:
        """Add the searches of another batch, whose rows now stand from `first` on."""
        for part in other.parts:
            part.batch, part.index = self, part.index + first
        self.parts = [*self.parts, *other.parts]


@dataclass(frozen=True, slots=True, eq=False)
class Resume:
    """Read partial answers of equal length to a prompt; the result are `SearchRows` at their ends, a row for each.

    Attributes:
        prompt: 0-based prompt of the batch.
        texts: Tokens of each.
        memories: Memory of each text's row before its last token was read, `SearchRows.memory`.
    """

    prompt: int
    texts: Sequence[Sequence[int]]
    memories: Sequence[Memory]


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """Feed rows the next token.

    Attributes:
        rows: The rows.
        tokens: The token of each row that goes on, (N,).
        parents: The rows that go on, 0-based, which may repeat, (N,); None: all.
    """

    rows: SearchRows
    tokens: Tensor
    parents: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Read several candidate tokens of each row in one pass; `Keep` must follow, or the rows are given up.

    Attributes:
        rows: The rows.
        tokens: (N, candidates).
        parents: As in `Feed`, before the candidates are read.
    """

    rows: SearchRows
    tokens: Tensor
    parents: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Keep:
    """Continue some rows after `Split`, each with one of its candidate tokens.

    Attributes:
        rows: The rows.
        parents: The rows that go on, 0-based, which may repeat, (N,).
        candidates: 0-based candidate of each of them, (N,).
        differing: The rows differ in at most so many newest tokens, as beams of one prompt do; None: in any.
    """

    rows: SearchRows
    parents: Tensor
    candidates: Tensor
    differing: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """Call a function once for all searches that ask for it, such as one that embeds sentences.

    Attributes:
        function: Takes the arguments of the searches, and returns a result for each; the same object in each search.
        argument: This search's.
    """

    function: Callable[[Sequence[Any]], Sequence[Any]]
    argument: Any


Request = Resume | Feed | Split | Keep | Ask
Steps = Generator[Any, Any, Any]  # yields a `Request` or a list of such generators
