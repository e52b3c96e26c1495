"""The base class of benchmarks: items, counts per answer (pure functions), metrics as ratios of summed counts.

Every metric is a ratio of two linear combinations of counts. Numerator and denominator stay
visible, results can be pooled, and a bootstrap over pictures is one matrix product.

Like a strategy, a benchmark is a frozen dataclass of options: the rule that reads answers, the wording
of the question, the length of an answer. "pope(rule='official')" names it on the command line and in results.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from mmhall.errors import DataError
from mmhall.files import why_not_a_file
from mmhall.objects import Mention
from mmhall.options import Configured

if TYPE_CHECKING:
    from mmhall.answers import Answer
    from mmhall.benchmarks.evaluation import Evaluation
    from mmhall.benchmarks.evidence.lineup import Lineup
    from mmhall.lvlm import LVLM
    from mmhall.results.store import Row

SEED = "sample_seed"  # the option of benchmarks that sample answers
COUNTED = "counted"  # the decoder's passes, in `Row.extra`
Counts = dict[str, float]
Array = npt.NDArray[np.float64]
OfficialFigures = Mapping[str, Mapping[str, tuple[float, ...]]]
"""Strategy to column to figures, which `Benchmark.official` names."""
Figures = Collection[tuple[str, str]]
"""Groups and names of metrics."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question or picture to ask about.

    Attributes:
        id: Unique within the benchmark.
        picture: Id of the picture; None for a question without a picture.
        prompt: Prompt for the model.
        groups: Groups whose metrics include the item, such as POPE's settings; repeated, the item counts twice.
        truth: What scoring needs, as JSON values.
        cluster: Items of one cluster are resampled together; by default those of one picture.
    """

    id: str
    picture: str | None
    prompt: str
    groups: tuple[str, ...]
    truth: Mapping[str, Any] = field(default_factory=dict)
    cluster: str = ""

    def __post_init__(self) -> None:
        """Set the default cluster: the picture, else the item."""
        object.__setattr__(self, "cluster", self.cluster or self.picture or self.id)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the data of a benchmark is.

    Attributes:
        data: A file or folder in a format of the benchmark; None: not given.
        images: Folder of the pictures; None: the folder of the data.
        limit: Number of pictures to use, from the first; None: all.
        seed: Seed of the benchmark's random choices.
        pictures: Whether picture files must exist; scoring needs none.
    """

    data: Path | None
    images: Path | None = None
    limit: int | None = None
    seed: int = 0
    pictures: bool = True

    def __post_init__(self) -> None:
        """Refuse unreadable paths.

        Raises:
            DataError: A path is too long, invalid, or not permitted to be read.
        """
        for option, path in (("--data", self.data), ("--images", self.images)):
            reason = None if path is None else why_not_a_file(path)
            if reason is not None and reason.startswith(("cannot be read", "is no path")):
                raise DataError(f"{path}: {reason}; give another {option}")

    def data_path(self, name: str, expected: str) -> Path:
        """Return the path of the data.

        Args:
            name: Name of the benchmark.
            expected: Description of the data it reads.

        Raises:
            DataError: The data was not given, or does not exist.
        """
        if self.data is None:
            raise DataError(f"{name}: its data does not ship with mmhall; give --data {expected}")
        reason = why_not_a_file(self.data)
        if reason not in (None, "is a folder"):
            raise DataError(f"{self.data}: {reason}; {name} reads {expected}")
        return self.data

    @property
    def folder(self) -> Path | None:
        """Base folder of picture names."""
        if self.images is not None or self.data is None:
            return self.images
        return self.data if self.data.is_dir() else self.data.parent


@dataclass(frozen=True, slots=True)
class Material:
    """The items and pictures of a benchmark.

    Attributes:
        items: Items in the order they are asked.
        pictures: Picture id to file, for the pictures of the items.
        remarks: Notes for the report on how the items were made, such as what was left out and why.
    """

    items: tuple[Item, ...]
    pictures: Mapping[str, Path]
    remarks: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 digest of the items, 16 hex digits: materials with one digest ask the same."""
        hashed, encoder = hashlib.sha256(), json.JSONEncoder(sort_keys=True)
        for number, i in enumerate(self.items):
            listed = encoder.encode([i.id, i.prompt, i.groups, dict(i.truth)])
            hashed.update(f"{', ' if number else '['}{listed}".encode())  # as one JSON list, of which no more is held
        hashed.update(b"]" if self.items else b"[]")
        return hashed.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 digest of a picture file, 64 hex digits.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check --images") from error


def digest_of(pictures: Mapping[str, str]) -> str:
    """Return one SHA-256 digest of several pictures from the digests of their files, 16 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(pictures):
        digest.update(name.encode() + bytes.fromhex(pictures[name]))
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Metric:
    """A ratio of summed counts.

    Attributes:
        name: Short name.
        over: Numerator, as count name to weight.
        under: Denominator, as count name to weight.
        better: Whether higher or lower is better; None: neither.
        percent: Whether it is shown in percent.
        flag: Name of the 0/1 count of which the metric is the mean, for the McNemar test; else None.
        table: "" for the main table; else the name of a separate table, such as "by visibility".
        margin: Largest difference that counts as no effect, in the unit of the figure: 0.02 is two points of percent.
        of: For a figure that is no ratio: its function of summed counts, arrays of one shape; NaN means no value.
        sums: Names of these counts, in the order of the function's arguments.
        fixed: Whether it depends on the items alone, such as what chance gives; strategies are not compared in it.
    """

    name: str
    over: Mapping[str, float]
    under: Mapping[str, float]
    better: Literal["higher", "lower"] | None = None
    percent: bool = True
    flag: str | None = None
    table: str = ""
    margin: float = 0.02
    of: Callable[..., Any] | None = None
    sums: tuple[str, ...] = ()
    fixed: bool = False

    @property
    def figure(self) -> Callable[..., Any]:
        """The function of summed counts, with one argument for each of `terms`."""
        from mmhall.results.statistics import ratio  # it imports scipy, which takes half a second

        return ratio if self.of is None else self.of

    @property
    def scale(self) -> float:
        """The factor of a shown value."""
        return 100.0 if self.percent else 1.0

    def terms(self, counts: Sequence[Counts]) -> list[Array]:
        """Return what is summed: numerator and denominator, or the arguments of `of`; each (items,)."""
        if self.of is not None:
            return [series(counts, {name: 1}) for name in self.sums]
        return [series(counts, self.over), series(counts, self.under)]

    def value(self, counts: Sequence[Counts]) -> float | None:
        """Return the figure of answers; None: nothing to divide by."""
        value = float(self.figure(*(term.sum() for term in self.terms(counts))))
        return value if math.isfinite(value) else None


def series(counts: Sequence[Counts], weights: Mapping[str, float]) -> Array:
    """Return the weighted sum of counts of each item, in order, (items,)."""
    counts = list(counts)
    keys = [id(one) for one in counts]  # an object that stands there often is summed once; see `share_equal`
    sums = {
        key: sum(weight * one[name] for name, weight in weights.items())
        for key, one in dict(zip(keys, counts, strict=True)).items()
    }
    return np.array([sums[key] for key in keys], np.float64)


@dataclass(frozen=True)
class Benchmark(Configured, ABC):
    """A benchmark: makes items from data, and counts from answers.

    Attributes:
        metrics: Metrics, the primary one first; see `primary`.
        groups: Groups of items, in the order they are shown.
        reads: Description of what `--data` may be.
        keys: Fields that together identify an item in imported answers, joined by "_"; empty: one field does.
        drawn: Whether scenes are drawn if no data is given.
        pairwise: Groups in which each strategy is counted together with the baseline, whose own line is counted alone;
            without another strategy they are left out.
        pairing: How a strategy and the baseline are counted together in these groups, for the report.
        trades: Name of the metric that shorter captions lose, such as "recall": captions of the baseline, cut, are then
            controls of the primary metric; "" for other benchmarks. How sure the model is of each mention is stored
            with the baseline's captions (`mmhall.benchmarks.evidence.mentions`).
        asks_in_words: Whether words of a question that the model's tokenizer does not know are stored with its answer,
            for a note in the report (`mmhall.benchmarks.evidence.unknown_words`).
        yes_no: Whether answers are yes or no. The truth of an item then has its right one as "label", counts have "n",
            "right" and "unparsed", and the score of the first token is stored with each answer
            (`mmhall.benchmarks.evidence.threshold`).
        grid: Groups that one table shows beside each other, with their mean, if the data has several of them.
        grid_metrics: Names of the metrics of this table.
        plotted: Group whose primary metric is plotted against cost; "": the last group.
        leading: Groups and metrics that a report shows first, as (group, name of the metric); empty: the primary metric
            in the plotted group, and what `trades` names.
        same_answers: Names of benchmarks that ask the same of the same items, so that their answers can be scored here.
        official: Names of the figures in `official_figures`, such as "accuracy/F1".
        read_by: Options that only affect how answers are read; they may change after a run.
        rule: Name of the rule that reads answers; part of every result.
        max_new_tokens: Limit of tokens of an answer.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    groups: ClassVar[tuple[str, ...]]
    reads: ClassVar[str]
    keys: ClassVar[tuple[str, ...]] = ()
    drawn: ClassVar[bool] = False
    read_by: ClassVar[frozenset[str]] = frozenset({"rule"})
    pairwise: ClassVar[tuple[str, ...]] = ()
    pairing: ClassVar[str] = "both cut alike; differences are of that, while the baseline's own line is uncut"
    trades: ClassVar[str] = ""
    asks_in_words: ClassVar[bool] = False
    yes_no: ClassVar[bool] = False
    grid: ClassVar[tuple[str, ...]] = ()
    grid_metrics: ClassVar[tuple[str, ...]] = ()
    plotted: ClassVar[str] = ""
    leading: ClassVar[tuple[tuple[str, str], ...]] = ()
    same_answers: ClassVar[tuple[str, ...]] = ()
    official: ClassVar[str] = ""

    rule: str
    max_new_tokens: int

    @property
    def primary(self) -> Metric:
        """The metric that was declared, before any answer, to decide: ticks and verdicts rest on it alone."""
        return self.metrics[0]

    @property
    def settings(self) -> dict[str, Any]:
        """Generation settings of the answers, as `LVLM.generate` takes them."""
        return {"max_new_tokens": self.max_new_tokens}

    def with_seed(self, seed: int) -> Benchmark:
        """Return the benchmark with another seed of its sampled answers; the same one if it samples none."""
        seeded: dict[str, Any] = {SEED: seed}
        return replace(self, **seeded) if self.settings.get("do_sample") else self

    @abstractmethod
    def material(self, source: Source) -> Material:
        """Make the items, the same for the same source.

        Raises:
            DataError: The data is missing, malformed, or insufficient.
        """

    @abstractmethod
    def count(self, item: Item, text: str) -> Counts:
        """Count one answer; a pure function."""

    def counts(self, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
        """Count the answers to items, in order; a pure function.

        Counts that depend on several answers (both questions about a picture right) are in the first of them.
        """
        return [self.count(item, row.text) for item, row in zip(items, rows, strict=True)]

    def paired(
        self, items: Sequence[Item], rows: Sequence[Row], base_rows: Sequence[Row], group: str = ""
    ) -> tuple[list[Counts], list[Counts]]:
        """Count the answers of a strategy and of the baseline for a group of `pairwise`; a pure function."""
        return self.counts(items, rows), self.counts(items, base_rows)

    @abstractmethod
    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Return the spans of an answer that are right or wrong: (start, end, right), in characters."""

    def named(self, item: Item, text: str) -> Sequence[Mention]:
        """Return the objects that a caption names, with the places of `mark`; here by the words it uses."""
        return [Mention(text[start:end].lower(), start, end) for start, end, _ in self.mark(item, text)]

    def claims(self, item: Item, text: str) -> Mapping[str, bool]:
        """Return the claims of an answer, and whether each is right; answers with equal claims agree.

        Args:
            item: The item asked.
            text: The answer.

        Returns:
            Claimed object, in lower case, to whether it is right; "" if an answer is right or wrong as a whole.
        """
        return {
            "" if (start, end) == (0, len(text)) else text[start:end].lower(): right
            for start, end, right in self.mark(item, text)
        }

    def reading_remarks(self, items: Sequence[Item], rows: Sequence[Row]) -> tuple[str, ...]:
        """Return notes for the report on how answers were read, such as missing words; a pure function."""
        return ()

    def official_figures(self, items: Sequence[Item], rows: Sequence[Row]) -> OfficialFigures:
        """Return the figures of the authors' script, if they differ from the metrics; a pure function."""
        return {}

    def measure(
        self, lvlm: LVLM, questions: Sequence[tuple[Item, Path | None]], answers: Sequence[Answer]
    ) -> list[dict[str, Any] | None]:
        """Return measurements stored with each answer, as JSON values; `counts` finds them in `Row.extra`."""
        return [None] * len(answers)

    def evaluate(
        self,
        items: Sequence[Item],
        rows: Sequence[Row],
        strategies: Sequence[str],
        lineup: Lineup | None = None,
        only: Figures | None = None,
    ) -> Evaluation:
        """Evaluate stored answers; see `mmhall.benchmarks.evaluation.evaluate`."""
        from mmhall.benchmarks.evaluation import evaluate

        return evaluate(self, items, rows, strategies, lineup, only)


def share_equal(counts: Sequence[Counts]) -> list[Counts]:
    """Return counts of which equal ones are one object: answers of one word have a dozen different ones."""
    first: dict[tuple[tuple[str, float], ...], Counts] = {}
    return [first.setdefault(tuple(own.items()), own) for own in counts]


def by_strategy(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Group answers by strategy, in the order of first appearance."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.strategy, []).append(row)
    return grouped
