"""The objective of `mmhall tune`: quality of yes/no answers and of captions, on pictures with known objects.

Objective  mean of the accuracy of yes/no answers (POPE's popular and adversarial questions; a question of both
           settings counts twice) and the F1 of objects in captions, the harmonic mean of precision (1 - CHAIR_i,
           repeats counted) and recall. With F1 a strategy cannot win by naming fewer objects.
Intervals  paired bootstrap: pictures are drawn with replacement, with all their questions and their caption.
Test       paired permutation: the answers of two strategies are exchanged in random pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmhall.benchmarks.base import Benchmark, Item
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.data.pictures import PictureBenchmark, PictureSet
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.run.inputs import reopen_thoughts, write_prompts
from mmhall.errors import DataError
from mmhall.lvlm import LVLM
from mmhall.results.statistics import Array, Resampler
from mmhall.strategies import Strategy

OBJECTIVE = (
    "mean of the accuracy of yes/no answers (POPE popular and adversarial) and the object F1 of captions "
    "(precision 1 - CHAIR_i, recall)"
)
SETTINGS = ("popular", "adversarial")
Progress = Callable[[int], None]
Sums = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a strategy; shares in [0, 1].

    Attributes:
        objective: The mean of accuracy and F1.
        accuracy: Accuracy of yes/no answers.
        f1: F1 of the objects in captions.
        precision: Share of named objects that are in the picture, 1 - CHAIR_i.
        recall: Share of the picture's objects that are named.
        words: Words per caption.
        changed: Share of answers that differ from greedy's.
    """

    objective: float
    accuracy: float
    f1: float
    precision: float
    recall: float
    words: float
    changed: float


@dataclass(frozen=True, slots=True)
class Gain:
    """The difference of two strategies' objectives on the same pictures.

    Attributes:
        value: The difference.
        low: Lower end of its 95 % interval.
        high: Upper end.
        error: Standard error of the difference.
        p: Two-sided p-value of the permutation test, not corrected.
    """

    value: float
    low: float
    high: float
    error: float
    p: float


@dataclass(frozen=True, slots=True)
class Scored:
    """The answers of one strategy to a sheet, with their counts.

    Attributes:
        texts: The answers.
        counts: For each summed count, the values of all items.
    """

    texts: tuple[str, ...]
    counts: tuple[Array, ...]


class Sheet:
    """Questions and caption requests about pictures, and the scoring of their answers.

    Attributes:
        pictures: Ids of the pictures, in order.
        questions: Number of yes/no questions.
        captions: Number of captions.
    """

    def __init__(self, pictures: PictureSet, ids: Sequence[str], seed: int, max_new_tokens: int | None = None) -> None:
        """Make the items.

        Args:
            pictures: The whole set, on which object frequencies are counted.
            ids: Ids of the pictures of this sheet.
            seed: Seed of the questions.
            max_new_tokens: Limit of tokens of a caption; by default as in `mmhall bench`.

        Raises:
            DataError: The pictures give no questions or no captions.
        """
        chosen, self.pictures = set(ids), tuple(ids)
        self._paths: dict[str | None, Path] = {p.id: p.path for p in pictures.pictures}
        self._parts: list[tuple[Benchmark, list[Item]]] = []
        caption = Chair(max_new_tokens=max_new_tokens or Chair.max_new_tokens)
        parts: tuple[PictureBenchmark, ...] = Pope(), caption
        for benchmark in parts:
            items = [item for item in benchmark.items(pictures, seed) if item.picture in chosen and _is_scored(item)]
            if not items:
                raise DataError(f"tune: none of {len(chosen)} pictures gives an item for {benchmark.name}; use more")
            self._parts.append((benchmark, items))
        self.questions, self.captions = (len(items) for _, items in self._parts)
        self._resampler = Resampler([item.cluster for _, items in self._parts for item in items])

    def __len__(self) -> int:
        """Return the number of items."""
        return self.questions + self.captions

    def answer(self, lvlm: LVLM, method: Strategy, batch_size: int, progress: Progress) -> Scored:
        """Answer every item with a strategy, in batches, and count the answers."""
        texts: list[str] = []
        rows: list[tuple[float, ...]] = []
        for benchmark, items in self._parts:
            for start in range(0, len(items), batch_size):
                batch = items[start : start + batch_size]
                requests = [(self._paths[item.picture], item.prompt) for item in batch]
                written = lvlm.generate_batch(requests, method, **benchmark.settings)
                answers = reopen_thoughts(write_prompts(lvlm.adapter, batch), written)
                texts += [answer.text for answer in answers]
                rows += [_count_answer(benchmark, item, a.text) for item, a in zip(batch, answers, strict=True)]
                progress(len(batch))
        return Scored(tuple(texts), tuple(np.array(rows, np.float64).T))

    def figures(self, scored: Scored, greedy: Scored) -> Figures:
        """Compute the figures of a strategy from its counts."""
        sums = tuple(np.array([series.sum()]) for series in scored.counts)
        accuracy, precision, recall, f1 = (float(value[0]) for value in _shares(sums))
        changed = sum(a != b for a, b in zip(scored.texts, greedy.texts, strict=True)) / len(self)
        words = float(scored.counts[-1].sum()) / self.captions
        return Figures((accuracy + f1) / 2, accuracy, f1, precision, recall, words, changed)

    def gain(self, scored: Scored, base: Scored) -> Gain:
        """Compare the objectives of two strategies on the same bootstrap draws, and by a permutation test."""
        found = self._resampler.difference_of(_objective, scored.counts, base.counts)
        assert found is not None  # every sheet has questions and objects
        drawn = [_objective(*map(self._resampler.sums, one.counts)) for one in (scored, base)]
        return Gain(found.value, found.low, found.high, float(np.nanstd(drawn[0] - drawn[1])), found.p)


def _objective(*sums: Array) -> Array:
    """Return the objective of summed counts."""
    accuracy, _, _, f1 = _shares(sums)
    objective: Array = (accuracy + f1) / 2
    return objective


def _is_scored(item: Item) -> bool:
    return "captions" in item.groups or bool(set(SETTINGS) & set(item.groups))


def _count_answer(benchmark: Benchmark, item: Item, text: str) -> tuple[float, ...]:
    """Count one answer: questions, right answers, named, absent, present and found objects, words."""
    counts = benchmark.count(item, text)
    if "right" in counts:
        times = len(set(SETTINGS) & set(item.groups))
        return times, times * counts["right"], 0, 0, 0, 0, 0
    return 0, 0, *(counts[name] for name in ("named", "absent", "present", "found", "words"))


def _shares(sums: Sums) -> tuple[Array, Array, Array, Array]:
    """Return accuracy, precision, recall and F1; without named objects precision and F1 are 0."""
    questions, right, named, absent, present, found_objects, _ = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(named > 0, (named - absent) / named, 0.0)
        recall = found_objects / present
        f1 = np.where(precision + recall > 0, 2 * precision * recall / (precision + recall), 0.0)
        return right / questions, precision, recall, f1
