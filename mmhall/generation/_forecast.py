"""The memory that prompts will take, predicted from one of their kind that was read and decoded alone.

What a model, a strategy and its ops allocate is not derived from their configuration but counted (`TensorMemory`), on
the first prompt of each kind: with or without a picture, and of a length that differs by less than a quarter. Others of
the kind are predicted from it:

    reading    as much for each prompt, and more by the square of its length where it is longer: attention maps grow so
    caches     what the layers of the cache hold for each position and row, with room to grow, at the longest answers
    decoding   what a prompt keeps beside its cache, and what a pass takes for a time, for each prompt
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmhall._transformers.cache_sizes import LayerSize, cache_bytes
from mmhall.errors import GenerationError
from mmhall.generation._budget import Budget, Load, count_positions, format_bytes, stages

_CLASS = 1.25  # lengths of one kind differ by less than this factor


@dataclass(frozen=True, slots=True)
class Sample:
    """What the first prompt of a kind has taken, alone.

    Attributes:
        length: Its positions, as it was given.
        columns: Those of its rows: a strategy may write something into it, and branches have prompts of their own.
        rows: Rows that it is decoded in.
        read: Most bytes while it was read; in a search, until its answer was found.
        held: Bytes that it keeps beside its cache until it is answered.
        step: Bytes that a pass over its rows takes for a time.
        layers: Bytes of a row in each layer of the cache.
    """

    length: int
    columns: int
    rows: int
    read: int = 0
    held: int = 0
    step: int = 0
    layers: tuple[LayerSize, ...] = ()

    def growth(self, length: int) -> float:
        """Return how many times as long a prompt is; 1 where it is shorter."""
        return max(1.0, length / self.length)

    def load(self, count: float, length: int, new: int) -> Load:
        """Return what some prompts are after they were read.

        Args:
            count: Number of prompts.
            length: Positions of the longest.
            new: Most tokens of an answer.
        """
        each = self.growth(length) * count
        columns = length + self.columns - self.length
        return Load(
            math.ceil(count * self.rows), columns, new, math.ceil(self.held * each), math.ceil(self.step * each)
        )

    def reading(self, count: int, length: int) -> int:
        """Return the most bytes while some prompts are read, the longest of this length."""
        return math.ceil(count * self.read * self.growth(length) ** 2)


Samples = dict[tuple[bool, int], Sample]
"""The samples of a strategy with a model, by whether there is a picture and the class of length."""


class Forecast:
    """Tells how many prompts fit into a budget beside those that are being decoded."""

    def __init__(self, budget: Budget, samples: Samples, new: int) -> None:
        """Predict from samples, to which further ones are added; `new` is the most tokens of an answer."""
        self.budget, self._samples, self._new = budget, samples, new

    def sample(self, length: int, *, picture: bool) -> Sample | None:
        """Return the sample of a kind of prompts; None: there is none yet."""
        return self._samples.get(self._kind(length, picture))

    def add(self, sample: Sample, *, picture: bool) -> None:
        """Add the sample of a kind, or replace it."""
        self._samples[self._kind(sample.length, picture)] = sample

    def note_length(self, length: int, columns: int, *, picture: bool) -> None:
        """Note that rows have so many positions where the longest prompt was given with `length`."""
        sample = self.sample(length, picture=picture)
        if sample is not None and sample.columns - sample.length < columns - length:
            self.add(replace(sample, columns=sample.length + columns - length), picture=picture)

    def count_fitting(self, lengths: Sequence[int], running: Sequence[Load], *, picture: bool) -> int:
        """Return how many prompts, from the first one, fit beside what is being decoded; 0 also where it is unknown.

        Args:
            lengths: Positions of each prompt.
            running: What is being decoded.
            picture: Whether the prompts have pictures.
        """
        fitting = (n for n in range(len(lengths), 0, -1) if self._fits(lengths[:n], running, picture))
        return next(fitting, 0)

    def check(self, lengths: Sequence[int], running: Sequence[Load] = (), *, picture: bool) -> None:
        """Check that prompts do not take more memory than the budget has, if it is known; arguments as above.

        Raises:
            GenerationError: They do.
        """
        sample, most = self.sample(max(lengths), picture=picture), self.budget.memory
        if sample is None or most is None:
            return
        predicted = self.predict(sample, lengths, running)
        if predicted > most:
            raise GenerationError(
                f"its answer takes about {format_bytes(predicted)} beside the model, more than the memory of "
                f"{format_bytes(most)} that it may take; raise memory, or lower max_new_tokens"
            )

    def predict(self, sample: Sample, lengths: Sequence[int], running: Sequence[Load] = ()) -> int:
        """Return the most bytes beside the model until prompts, and what is being decoded, are answered."""
        count, longest = len(lengths), max(lengths)
        now = Load(sum(load.rows for load in running), max((load.columns for load in running), default=0))
        reading = cache_bytes(sample.layers, now.rows, now.columns) if running else 0
        reading += sum(load.held for load in running) + sample.reading(count, longest)
        loads = [*running, sample.load(count, longest, self._new)]
        return max(reading, *(_bytes(stage, sample) for stage in stages(loads)))

    def _fits(self, lengths: Sequence[int], running: Sequence[Load], picture: bool) -> bool:
        budget, sample = self.budget, self.sample(max(lengths), picture=picture)
        if sample is None:
            return False
        load = sample.load(len(lengths), max(lengths), self._new)
        few = budget.positions is None or count_positions([*running, load]) <= budget.positions
        return few and (budget.memory is None or self.predict(sample, lengths, running) <= budget.memory)

    def _kind(self, length: int, picture: bool) -> tuple[bool, int]:
        """Return the kind of a prompt; where memory is not limited, its length does not matter."""
        return picture, 0 if self.budget.memory is None else int(math.log(length) / math.log(_CLASS))


def _bytes(stage: Load, sample: Sample) -> int:
    return cache_bytes(sample.layers, stage.rows, stage.columns) + stage.held + stage.step
