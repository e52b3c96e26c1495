"""What a benchmark is: items to ask, a pure count per answer, and metrics as ratios of summed counts.

Every metric is a ratio of two linear combinations of counts. That keeps numerator and denominator
visible, lets results be pooled, and makes a bootstrap over pictures one matrix product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mmhall.benchmarks.pictures import PictureSet

Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to ask.

    Attributes:
        id: Unique within the benchmark.
        picture: The picture's id; items of one picture belong together in every interval.
        prompt: What the model is asked.
        groups: The groups whose metrics it enters, such as POPE's settings.
        truth: What the scorer needs, plain data.
    """

    id: str
    picture: str
    prompt: str
    groups: tuple[str, ...]
    truth: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """A ratio of summed counts.

    Attributes:
        name: Short name.
        over: Count name to weight, numerator.
        under: Count name to weight, denominator.
        better: Which way is better; None where neither is.
        percent: Whether it prints as a percentage.
        flag: Name of a 0/1 count that makes it a share of items, testable by McNemar; else None.
    """

    name: str
    over: Mapping[str, float]
    under: Mapping[str, float]
    better: Literal["higher", "lower"] | None = None
    percent: bool = True
    flag: str | None = None


class Benchmark(ABC):
    """Makes items from pictures with known objects and counts what an answer got right.

    Attributes:
        name: How people call it.
        metrics: What it reports, the primary one first.
        groups: Its groups, in the order they are shown.
        max_new_tokens: Most tokens an answer may have.
        rule: Name of the rule that reads answers, part of every result.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    groups: ClassVar[tuple[str, ...]]
    max_new_tokens: ClassVar[int]
    rule: ClassVar[str]

    @abstractmethod
    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Make the items, the same for the same pictures and seed.

        Raises:
            DataError: The pictures do not suffice.
        """

    @abstractmethod
    def count(self, item: Item, answer: str) -> Counts:
        """Read one answer; pure."""

    @abstractmethod
    def mark(self, item: Item, answer: str) -> Sequence[tuple[int, int, bool]]:
        """Return the stretches of an answer that are right or wrong: (start, end, right), in characters."""
