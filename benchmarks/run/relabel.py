"""A second reading of stored answers with other labels, such as RePOPE's.

Labels     RePOPE (arXiv:2504.15707, YanNeu/RePOPE) corrects the labels of POPE's COCO questions and leaves ambiguous
           questions out: 9.3 % of the yes labels and 1.7 % of the no labels are found wrong. Its files have the format
           of POPE's own: coco_repope_random.json and so on, or a folder with them.
Matching   By setting, picture (file name with or without folder and suffix, or COCO's number) and question. A setting
           without labels is not read again. Questions without a label do not count: those about a picture with other
           labels are *dropped* by the file; those about other pictures are *unknown* to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.data.pope_files import read_questions
from mmhall.benchmarks.data.pope_maker import Question
from mmhall.benchmarks.evaluation import Evaluation
from mmhall.benchmarks.evidence import Lineup
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.rules.yesno import Label
from mmhall.benchmarks.run.joining import items_about, items_by_name, normalize_question, question_of
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.errors import DataError, RunError


@dataclass(frozen=True, slots=True)
class Coverage:
    """What other labels say about the questions of one setting; a repeated question counts each time.

    Attributes:
        kept: Questions with a label.
        dropped: Questions without a label, about pictures that have labels.
        unknown: Questions about pictures without any label.
        unmatched: Labels without a question.
        became_no: Questions whose label was yes and is no.
        became_yes: Questions whose label was no and is yes.
    """

    kept: int
    dropped: int
    unknown: int
    unmatched: int
    became_no: int
    became_yes: int


@dataclass(frozen=True, slots=True)
class Relabelled:
    """A second reading of the answers to a benchmark.

    Attributes:
        source: Name of the file or folder of the labels.
        files: Counts and digests of the files.
        coverage: Setting to what the labels say about its questions.
        evaluation: Evaluation of the same answers with these labels.
    """

    source: str
    files: tuple[str, ...]
    coverage: Mapping[str, Coverage]
    evaluation: Evaluation


def read_again(run: Run, evaluated: Sequence[tuple[Part, Evaluation]], path: Path) -> list[tuple[Part, Evaluation]]:
    """Add a second reading with other labels to the evaluation of a run's POPE.

    Args:
        run: The run.
        evaluated: Its evaluation.
        path: Labels: a file in POPE's format with its setting in the name, or a folder of such files.

    Raises:
        RunError: The run has no POPE.
        DataError: The labels cannot be read, or none is for a question of the run.
    """
    if not any(isinstance(part.benchmark, Pope) for part, _ in evaluated):
        raise RunError(f"{run.store.path.parent}: has no pope; labels are of POPE's questions")
    return [
        (part, replace(evaluation, relabelled=_relabelled(run, part, path)))
        if isinstance(part.benchmark, Pope)
        else (part, evaluation)
        for part, evaluation in evaluated
    ]


def _relabelled(run: Run, part: Part, path: Path) -> Relabelled:
    labels = read_questions(path)
    found, unmatched = match_labels(part, labels.questions)
    if not found:
        known, asked = labels.questions[0], part.items[0]
        raise DataError(
            f"{path}: none of its labels is for a question of the run: it has {known.picture!r}, {known.text!r:.80}, "
            f"the run {asked.picture!r} and {question_of(asked)!r:.80}; give those of its questions"
        )
    settings = tuple(dict.fromkeys(setting for question in labels.questions for setting in question.ids))
    items = _copies(part.items, settings)
    kept = [_with_label(item, found[item.id, item.groups[0]]) for item in items if (item.id, item.groups[0]) in found]
    lineup = Lineup(run.arms, rules=run.rules(part))
    rows = [row for row in run.rows(part) if row.strategy in run.arms]
    evaluation = replace(part.benchmark.evaluate(kept, rows, run.arms, lineup), costs=())
    pictures = {item.picture for item in kept}
    coverage = {setting: _coverage(setting, items, found, pictures, unmatched[setting]) for setting in settings}
    files = labels.remarks[: len(settings)]  # one for each setting comes first
    return Relabelled(path.name, files, coverage, evaluation)


def match_labels(part: Part, labels: Sequence[Question]) -> tuple[dict[tuple[str, str], Label], Counter[str]]:
    """Match labels with the items of a run.

    Args:
        part: POPE's part of the run.
        labels: Labelled questions.

    Returns:
        The label by item id and setting, and the number of labels without an item by setting.

    Raises:
        DataError: A label may be for several pictures, or a question has two labels in one setting.
    """
    names = items_by_name(part.items, part.pictures)
    found: dict[tuple[str, str], Label] = {}
    unmatched: Counter[str] = Counter()
    for label in labels:
        text = normalize_question(label.text)
        about = [item for item in items_about(names, label.picture) if normalize_question(question_of(item)) == text]
        if len({item.picture for item in about}) > 1:
            several = ", ".join(sorted(repr(item.picture) for item in about)[:3])
            raise DataError(
                f"label of {label.picture!r}: may be of {several} of the run; give the names of its pictures"
            )
        for setting, numbers in label.ids.items():
            ids = [item.id for item in about if setting in item.truth.get("ids", {})]
            for id_ in ids:
                if found.setdefault((id_, setting), label.label) != label.label:
                    raise DataError(
                        f"{setting}: {label.text!r:.80} about {label.picture!r} is labelled yes and no; keep one"
                    )
            unmatched[setting] += 0 if ids else len(numbers)
    return found, unmatched


def _copies(items: Sequence[Item], settings: Sequence[str]) -> list[Item]:
    """Return each item once for each of its questions in these settings, with that setting as its first group."""
    return [
        replace(
            item, groups=(setting, *(group for group in dict.fromkeys(item.groups) if group not in item.truth["ids"]))
        )
        for item in items
        for setting in settings
        for _ in item.truth.get("ids", {}).get(setting, ())
    ]


def _with_label(item: Item, label: Label) -> Item:
    return replace(item, truth={**item.truth, "label": label})


def _coverage(
    setting: str,
    items: Sequence[Item],
    found: Mapping[tuple[str, str], Label],
    pictures: set[str | None],
    unmatched: int,
) -> Coverage:
    members = [item for item in items if item.groups[0] == setting]
    kept = [item for item in members if (item.id, setting) in found]
    turned = Counter(
        (item.truth["label"], label) for item in kept if (label := found[item.id, setting]) != item.truth["label"]
    )
    known = sum(item.picture in pictures for item in members)
    return Coverage(
        len(kept), known - len(kept), len(members) - known, unmatched, turned["yes", "no"], turned["no", "yes"]
    )
