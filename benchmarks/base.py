"""What a benchmark is: items to ask, a pure count per answer, and metrics as ratios of summed counts.

Every metric is a ratio of two linear combinations of counts. That keeps numerator and denominator
visible, lets results be pooled, and makes a bootstrap over pictures one matrix product.

Like a strategy, a benchmark is a frozen dataclass of options: which rule reads answers, how the question
is put, how long an answer may be. "pope(rule='official')" names one on the command line and in results.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mmhall.errors import DataError
from mmhall.files import no_file
from mmhall.options import Configured

if TYPE_CHECKING:
    from mmhall.answers import Answer
    from mmhall.benchmarks.evaluation import Evaluation
    from mmhall.lvlm import LVLM
    from mmhall.results.store import Row

Counts = dict[str, float]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to ask.

    Attributes:
        id: Unique within the benchmark.
        picture: The picture's id; None for a question without one.
        prompt: What the model is asked.
        groups: The groups whose metrics it enters, such as POPE's settings; named twice, it counts twice there.
        truth: What the scorer needs, plain data.
        cluster: Items of one cluster belong together in every interval; unless given, those of one picture.
    """

    id: str
    picture: str | None
    prompt: str
    groups: tuple[str, ...]
    truth: Mapping[str, Any] = field(default_factory=dict)
    cluster: str = ""

    def __post_init__(self) -> None:
        """Cluster by picture unless told otherwise."""
        object.__setattr__(self, "cluster", self.cluster or self.picture or self.id)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a benchmark's data is to come from.

    Attributes:
        data: A file or folder in a format the benchmark reads; None: it was not given.
        images: Folder of the pictures; None: the data's own.
        limit: Use only the first so many pictures.
        seed: Seeds the benchmark's draws.
        pictures: Whether picture files must be there; scoring needs none.
    """

    data: Path | None
    images: Path | None = None
    limit: int | None = None
    seed: int = 0
    pictures: bool = True

    def __post_init__(self) -> None:
        """Refuse paths that nothing can be read from, whatever a benchmark looks for there.

        Raises:
            DataError: A name is too long for a file, or no path at all, or may not be read.
        """
        for option, path in (("--data", self.data), ("--images", self.images)):
            reason = None if path is None else no_file(path)
            if reason is not None and reason.startswith(("cannot be read", "is no path")):
                raise DataError(f"{path}: {reason}; give another {option}")

    def data_path(self, name: str, expected: str) -> Path:
        """Return the data's path.

        Args:
            name: Of the benchmark.
            expected: What it reads, in words.

        Raises:
            DataError: It was not given, or does not exist.
        """
        if self.data is None:
            raise DataError(f"{name}: its data does not ship with mmhall; give --data {expected}")
        reason = no_file(self.data)
        if reason not in (None, "is a folder"):
            raise DataError(f"{self.data}: {reason}; {name} reads {expected}")
        return self.data

    @property
    def folder(self) -> Path | None:
        """Folder that picture names are relative to."""
        if self.images is not None or self.data is None:
            return self.images
        return self.data if self.data.is_dir() else self.data.parent


@dataclass(frozen=True, slots=True)
class Material:
    """What a benchmark asks.

    Attributes:
        items: In the order they are asked.
        pictures: Picture id to file, of the pictures that items name.
        remarks: What a reader should know of how they were made, such as what was left out and why.
    """

    items: tuple[Item, ...]
    pictures: Mapping[str, Path]
    remarks: tuple[str, ...] = ()

    def digests(self) -> tuple[str, str]:
        """Return SHA-256 of the items, and of the picture files, 16 hex digits each.

        Raises:
            DataError: A picture cannot be read.
        """
        listing = json.dumps([[i.id, i.prompt, i.groups, dict(i.truth)] for i in self.items], sort_keys=True)
        return hashlib.sha256(listing.encode()).hexdigest()[:16], digest_of(self.picture_digests())

    def picture_digests(self) -> dict[str, str]:
        """Return SHA-256 of each picture's file, by picture id.

        Raises:
            DataError: A picture cannot be read.
        """
        return {name: file_digest(path) for name, path in self.pictures.items()}


def file_digest(path: Path) -> str:
    """Return SHA-256 of a picture's file, 64 hex digits.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check --images") from error


def digest_of(pictures: Mapping[str, str]) -> str:
    """Return SHA-256 of some pictures by the digests of their files, 16 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(pictures):
        digest.update(name.encode() + bytes.fromhex(pictures[name]))
    return digest.hexdigest()[:16]


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
        table: "" for the main table; else the name of a table of its own, such as "by visibility".
        of: For a figure that is no ratio: makes it of summed counts, arrays of one shape; NaN where there is none.
        sums: The names of those counts, in the order of its arguments.
    """

    name: str
    over: Mapping[str, float]
    under: Mapping[str, float]
    better: Literal["higher", "lower"] | None = None
    percent: bool = True
    flag: str | None = None
    table: str = ""
    of: Callable[..., Any] | None = None
    sums: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark(Configured, ABC):
    """Makes items from data and counts what an answer got right.

    Attributes:
        metrics: What it reports, the primary one first.
        groups: Its groups, in the order they are shown.
        reads: What `--data` may be, in words.
        keys: Fields that together name an item in files of its answers, joined by "_"; empty: one field does.
        drawn: Whether scenes are drawn for it where no data is given.
        pairwise: Groups in which each strategy is read together with the baseline, whose own line is as it is alone;
            with the baseline alone there are none.
        plotted: Group whose primary metric is drawn against cost; "" the last one.
        read_by: Options that say how answers are read, and may be changed when all is answered.
        rule: Name of the rule that reads answers, part of every result.
        max_new_tokens: Most tokens an answer may have.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    groups: ClassVar[tuple[str, ...]]
    reads: ClassVar[str]
    keys: ClassVar[tuple[str, ...]] = ()
    drawn: ClassVar[bool] = False
    read_by: ClassVar[frozenset[str]] = frozenset({"rule"})
    pairwise: ClassVar[tuple[str, ...]] = ()
    plotted: ClassVar[str] = ""

    rule: str
    max_new_tokens: int

    @property
    def settings(self) -> dict[str, Any]:
        """Generation settings of its answers, as `LVLM.generate` takes them."""
        return {"max_new_tokens": self.max_new_tokens}

    @abstractmethod
    def material(self, source: Source) -> Material:
        """Make the items, the same for the same source.

        Raises:
            DataError: The data is missing, malformed, or does not suffice.
        """

    @abstractmethod
    def count(self, item: Item, text: str) -> Counts:
        """Read one answer; pure."""

    def counts(self, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
        """Read the answers to some items, in order; pure.

        What several answers decide together (both questions about a picture right) is counted in the first of them.
        """
        return [self.count(item, row.text) for item, row in zip(items, rows, strict=True)]

    def paired(
        self, items: Sequence[Item], rows: Sequence[Row], base_rows: Sequence[Row]
    ) -> tuple[list[Counts], list[Counts]]:
        """Read a strategy's answers and the baseline's as the groups of `pairwise` compare them; pure."""
        return self.counts(items, rows), self.counts(items, base_rows)

    @abstractmethod
    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Return the stretches of an answer that are right or wrong: (start, end, right), in characters."""

    def claims(self, item: Item, text: str) -> Mapping[str, bool]:
        """Return what an answer says and whether that is right; answers of the same claims say the same.

        Args:
            item: What was asked.
            text: The answer.

        Returns:
            By what is named, in lower case; an answer that is right or wrong as a whole claims "".
        """
        return {
            "" if (start, end) == (0, len(text)) else text[start:end].lower(): right
            for start, end, right in self.mark(item, text)
        }

    def reading_remarks(self, items: Sequence[Item], rows: Sequence[Row]) -> tuple[str, ...]:
        """Return what a reader should know of how some answers were read, such as words that none of them has; pure."""
        return ()

    def measure(
        self, lvlm: LVLM, questions: Sequence[tuple[Item, Path | None]], answers: Sequence[Answer]
    ) -> list[dict[str, Any] | None]:
        """Return what is kept with each answer beside its text, as JSON writes it; `counts` finds it in `Row.extra`."""
        return [None] * len(answers)

    def evaluate(self, items: Sequence[Item], rows: Sequence[Row], strategies: Sequence[str]) -> Evaluation:
        """Turn stored answers into estimates; the first strategy is the baseline."""
        from mmhall.benchmarks.evaluation import evaluate

        return evaluate(self, items, rows, strategies)


def by_strategy(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return answers by strategy, in the order of their first ones."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.strategy, []).append(row)
    return grouped
