"""BEAF: yes/no questions about a scene before and after one object is removed.

Paper    Ye-Bin et al., ECCV 2024, arXiv:2407.13442; postech-ami/BEAF.
Items    The same questions about a picture and about versions of it without one object. Read from the authors'
         beaf_qna.json, with the pictures in --images or beside it. Without --data scenes are drawn: each is asked for
         all its categories and as many absent ones, drawn at random, and again without an object (`edits`: without
         each of several); the rest of the scene keeps its pixels. Their edited pictures are written to `edited` beside
         the scenes.
Prompt   The question, then the suffix of a profile, as for pope.
Rule     "strict", mmhall's, or any other of `yesno`; "contains" is the authors': yes if the answer contains yes in any
         case, else no if it contains no.
Metrics  Of the questions about a removed object, with the answer to the same question before: TU, true understanding,
         yes then no; IG, ignorance, no then yes; SBp and SBn, stubbornness, yes or no both times. Of those about
         objects that are removed nowhere: ID, indecision, the share of changed answers. F1(TU, ID) is the harmonic mean
         of TU and 1 - ID. Of all questions: accuracy, F1 of yes, precision, recall, yes ratio, unparsed; in a table of
         their own false yes, d' and c (`yes_bias`).
Differs  An unparsed answer is wrong, and no TU, IG, SBp or SBn, which then add up to less than 100 %; a turn to it
         counts as a change in ID. The authors' script takes the answer before it instead. Questions of one scene
         are resampled together. Edited photographs may show traces of the removed object; drawn scenes have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmhall.benchmarks.base import Array, Benchmark, Counts, Item, Material, Metric, Source
from mmhall.benchmarks.data.beaf import FILE, READS, PairQuestion, read_pair_questions
from mmhall.benchmarks.data.pope_wording import PROMPTS
from mmhall.benchmarks.data.reading import find_pictures
from mmhall.benchmarks.data.redrawn import is_drawn, write_plans
from mmhall.benchmarks.data.scene_pairs import EDITED, draw_pairs
from mmhall.benchmarks.rules import yes_bias, yesno
from mmhall.benchmarks.rules.yesno import RULES, Label, read, tally
from mmhall.options import option
from mmhall.results.statistics import ratio
from mmhall.results.store import Row

KINDS = {("yes", "no"): "TU", ("no", "yes"): "IG", ("yes", "yes"): "SBp", ("no", "no"): "SBn"}
"""Answers to the question about a removed object, before and after, to the count of this pair."""


def f1_of_changes(understood: Array, removed: Array, undecided: Array, kept: Array) -> Array:
    """Return the harmonic mean of TU and 1 - ID; NaN without pairs of both kinds.

    >>> round(float(f1_of_changes(6, 10, 1, 10)), 4)
    0.72
    """
    tu, steady = ratio(understood, removed), 1 - ratio(undecided, kept)
    return ratio(2 * tu * steady, tu + steady)


@dataclass(frozen=True)
class Beaf(Benchmark):
    """Yes/no questions about a scene before and after one object is removed.

    Attributes:
        rule: Rule that reads answers.
        max_new_tokens: Limit of tokens of an answer.
        prompt: Profile of the text after the question.
        edits: Most edited versions of a drawn scene, each without one object.
    """

    name: ClassVar[str] = "beaf"
    groups: ClassVar[tuple[str, ...]] = ("all",)
    drawn: ClassVar[bool] = True
    yes_no: ClassVar[bool] = True
    reads: ClassVar[str] = READS
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("F1(TU, ID)", {}, {}, "higher", of=f1_of_changes, sums=("TU", "removed", "ID", "kept")),
        Metric("TU", {"TU": 1}, {"removed": 1}, "higher"),
        Metric("IG", {"IG": 1}, {"removed": 1}, "lower"),
        Metric("SBp", {"SBp": 1}, {"removed": 1}, "lower"),
        Metric("SBn", {"SBn": 1}, {"removed": 1}, "lower"),
        Metric("ID", {"ID": 1}, {"kept": 1}, "lower"),
        *yesno.METRICS,
        *yes_bias.METRICS,
    )

    rule: str = option("strict", choices=tuple(RULES))
    max_new_tokens: int = option(8, low=1)
    prompt: str = option("llava", choices=tuple(PROMPTS))
    edits: int = option(1, low=1)

    def material(self, source: Source) -> Material:
        """Read the questions, or draw the edited scenes and ask about them."""
        data = source.data_path(self.name, self.reads)
        if is_drawn(data):
            return self._drawn(data, source)
        questions, odd = read_pair_questions(data / FILE if data.is_dir() else data)
        used = set(list(dict.fromkeys(question.scene for question in questions))[: source.limit])
        chosen = [question for question in questions if question.scene in used]
        pictures = find_pictures((question.image for question in chosen), (source.folder or data,), source.pictures)
        remark = f"{odd} questions belong to no pair: their label does not follow what was removed."
        return Material(tuple(self._items(chosen)), pictures, (remark,) if odd else ())

    def _drawn(self, annotations: Path, source: Source) -> Material:
        pairs = draw_pairs(annotations, source.seed, self.edits, source.limit, check=source.pictures)
        edited = annotations.parent / EDITED
        files = write_plans(pairs.edits, edited) if source.pictures else {name: edited / name for name in pairs.edits}
        files |= {question.scene: annotations.parent / question.scene for question in pairs.questions}
        items = self._items(pairs.questions)
        remark = f"{pairs.skipped} scenes are left out: no object can be removed without a change of the rest."
        return Material(
            tuple(items), {str(i.picture): files[str(i.picture)] for i in items}, (remark,) if pairs.skipped else ()
        )

    def _items(self, questions: Sequence[PairQuestion]) -> list[Item]:
        before = {(q.scene, q.text): q.id for q in questions if q.kind == "original"}
        return [
            Item(
                q.id,
                q.image,
                q.text + PROMPTS[self.prompt],
                ("all",),
                {"label": q.label, "question": q.text, "kind": q.kind, "before": before[q.scene, q.text]},
                q.scene,
            )
            for q in questions
        ]

    def count(self, item: Item, text: str) -> Counts:
        """Count one answer alone."""
        return {**tally(self.rule, item.truth["label"], text), **_pair_counts("", None, None)}

    def counts(self, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
        """Count answers; a pair is counted in its later answer, if the earlier one is there."""
        texts = {
            (item.cluster, item.truth["question"]): (item.truth["label"], row.text)
            for item, row in zip(items, rows, strict=True)
            if item.truth["kind"] == "original"
        }
        return [self._count(item, row.text, texts) for item, row in zip(items, rows, strict=True)]

    def _count(self, item: Item, text: str, texts: Mapping[tuple[str, str], tuple[Label, str]]) -> Counts:
        counts, before = self.count(item, text), texts.get((item.cluster, item.truth["question"]))
        if before is None:
            return counts
        said = read(self.rule, *before), read(self.rule, item.truth["label"], text)
        return {**counts, **_pair_counts(item.truth["kind"], *said)}

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark the whole answer as right or wrong."""
        return [(0, len(text), read(self.rule, item.truth["label"], text) == item.truth["label"])]


def _pair_counts(kind: str, before: Label | None, after: Label | None) -> Counts:
    """Count a pair of answers to one question.

    >>> _pair_counts("removed", "yes", "yes")
    {'removed': 1, 'TU': 0, 'IG': 0, 'SBp': 1, 'SBn': 0, 'kept': 0, 'ID': 0}
    """
    removed, kept = int(kind == "removed"), int(kind == "kept")
    found = KINDS.get((str(before), str(after))) if removed else None
    return {
        "removed": removed,
        **{name: int(name == found) for name in KINDS.values()},
        "kept": kept,
        "ID": int(bool(kept) and before != after),
    }
