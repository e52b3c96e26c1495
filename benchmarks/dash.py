"""DASH-B: yes/no questions about objects in pictures that make models hallucinate systematically.

Paper    Augustin, Neuhaus, Hein, arXiv:2503.23573; YanNeu/DASH-B.
Items    2 682 pictures, one question each, about 70 objects. Half of the pictures do not show their object; they were
         found by searching the web for pictures on which several models say that they do. Read from the hub dataset
         YanNeu/DASH-B (`--data hub:YanNeu/DASH-B`), or a copy of its files. Pictures with and without their object
         are asked in turn, so that the first ones of a run are balanced.
Prompt   The question as in the data: "Can you see a ... in this image. Please answer only with yes or no."
Rule     "strict", mmhall's, or any other of `yesno`; "contains" is the authors': yes if the answer contains yes in any
         case, else no if it contains no.
Metrics  accuracy; TPR and TNR, the shares of right answers to pictures with and without the object; their harmonic
         mean; precision, F1 of yes, yes ratio, unparsed. In a table of their own false yes, d' and c (`yes_bias`).
Differs  An answer that is neither yes nor no is wrong, as in the original. The original has one figure for each model,
         without intervals; here pictures are resampled, although those of one object resemble each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmhall.benchmarks.base import Array, Benchmark, Counts, Item, Material, Metric, Source
from mmhall.benchmarks.data.reading import Record, check_unique, find_pictures, read_records
from mmhall.benchmarks.rules import yes_bias, yesno
from mmhall.benchmarks.rules.yesno import RULES, read, tally
from mmhall.options import option
from mmhall.results.statistics import ratio

FILE = "questions.jsonl"


def harmonic_mean(found: Array, is_yes: Array, rejected: Array, is_no: Array) -> Array:
    """Return the harmonic mean of two shares; NaN where one has no items.

    >>> round(float(harmonic_mean(9, 10, 3, 10)), 4)
    0.45
    """
    tpr, tnr = ratio(found, is_yes), ratio(rejected, is_no)
    return ratio(2 * tpr * tnr, tpr + tnr)


@dataclass(frozen=True)
class DashB(Benchmark):
    """Yes/no questions about objects in pictures that were found to make models hallucinate.

    Attributes:
        rule: Rule that reads answers.
        max_new_tokens: Limit of tokens of an answer.
    """

    name: ClassVar[str] = "dash-b"
    groups: ClassVar[tuple[str, ...]] = ("all",)
    yes_no: ClassVar[bool] = True
    reads: ClassVar[str] = f"hub:YanNeu/DASH-B, a copy of it, or {FILE} (question_id, image, object, question, answer)"
    metrics: ClassVar[tuple[Metric, ...]] = (
        yesno.METRICS[0],
        Metric("harmonic mean", {}, {}, "higher", of=harmonic_mean, sums=("tp", "is_yes", "tn", "is_no")),
        Metric("TPR", {"tp": 1}, {"is_yes": 1}, "higher"),
        Metric("TNR", {"tn": 1}, {"is_no": 1}, "higher"),
        *(metric for metric in yesno.METRICS[1:] if metric.name != "recall"),
        *yes_bias.METRICS,
    )

    rule: str = option("strict", choices=tuple(RULES))
    max_new_tokens: int = option(16, low=1)

    def material(self, source: Source) -> Material:
        """Read the questions."""
        data = source.data_path(self.name, self.reads)
        records = read_records(data / FILE if data.is_dir() else data, self.reads)
        check_unique(((record.where, record.text("question_id")) for record in records), "question")
        items = _in_turn([_item(record) for record in records])
        used = list(dict.fromkeys(str(item.picture) for item in items))[: source.limit]
        pictures = find_pictures(used, (source.folder or data,), source.pictures)
        return Material(tuple(item for item in items if item.picture in pictures), pictures)

    def count(self, item: Item, text: str) -> Counts:
        """Count one answer against its label."""
        counts = tally(self.rule, item.truth["label"], text)
        return {**counts, "tn": counts["right"] - counts["tp"]}

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark the whole answer as right or wrong."""
        return [(0, len(text), read(self.rule, item.truth["label"], text) == item.truth["label"])]


def _item(record: Record) -> Item:
    truth = {"label": record.choice("answer", ("yes", "no")), "object": record.text("object")}
    return Item(record.text("question_id"), record.text("image"), record.text("question"), ("all",), truth)


def _in_turn(items: Sequence[Item]) -> list[Item]:
    """Order items so that yes and no take turns, each in the order of the file."""
    places: Counter[str] = Counter()
    keyed = []
    for item in items:
        keyed.append((places[item.truth["label"]], item))
        places[item.truth["label"]] += 1
    return [item for _, item in sorted(keyed, key=lambda pair: pair[0])]
