"""Scoring of imported answers: match them with a benchmark's items, and evaluate them like those of a run.

Answers are matched by `mmhall.benchmarks.run.joining`: by id, by picture and question, or by position if each
question is that at its position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

from mmhall.benchmarks.base import Benchmark, Item, Material, Source, file_digest
from mmhall.benchmarks.evaluation import Evaluation
from mmhall.benchmarks.rules.yesno import parse_strict
from mmhall.benchmarks.run.joining import Joined, join, repeats_other_question
from mmhall.benchmarks.run.runs import Part
from mmhall.errors import DataError
from mmhall.results.imports import IDS, MODELS, QUESTIONS, TEXTS, ImportedAnswer, describe_answers, read_answers
from mmhall.results.store import Row

DIGEST = "picture_sha256"  # as `mmhall export` writes it
_NUMBERS = {"0": "no", "1": "yes", "0.0": "no", "1.0": "yes", "False": "no", "True": "yes"}


@dataclass(frozen=True, slots=True)
class Scored:
    """The evaluation of a file of answers.

    Attributes:
        part: The benchmark and its items.
        evaluation: Evaluation of the answers; without costs, which are unknown.
        strategies: Strategies in the file, else the file's name.
        items: Digest of the items, 16 hex digits.
    """

    part: Part
    evaluation: Evaluation
    strategies: tuple[str, ...]
    items: str


def score(benchmark: Benchmark, source: Source, path: Path) -> Scored:
    """Score a file of answers.

    Args:
        benchmark: The benchmark.
        source: Source of the items; picture files may be missing.
        path: The answers; see `mmhall.results.imports`.

    Raises:
        DataError: The data or the file is unsuitable, an item has two answers, or no item has one.
    """
    material = benchmark.material(replace(source, pictures=False))
    all_answers = read_answers(path)
    answers = [answer for answer in all_answers if answer.benchmark in (None, benchmark.name, *benchmark.same_answers)]
    if not answers:
        raise DataError(f"{path}: holds answers of {all_answers[0].benchmark!r} alone, none of {benchmark.name!r}")
    joined = join(benchmark, material, answers, path)
    same_pictures = _same_pictures(joined, material, answers)
    rows, unknown = _rows(benchmark, joined, answers, path)
    if not rows:
        raise DataError(
            f"{path}: none of its {len(answers)} answers is for an item of {benchmark.name}: it has ids such as "
            f"{_examples(joined.items)}, the file {_examples(unknown)}; it is {describe_answers(answers)}; check --data"
        )
    rows = [row for row in rows if same_pictures.get(row.item, True)]
    if not rows:
        raise DataError(
            f"{path}: its {len(answers)} answers are all about other pictures than --data has by these names"
        )
    _refuse_unmeasured(benchmark, rows, path)
    _refuse_labels_and_prompts(joined, answers, rows, path)
    strategies = tuple(dict.fromkeys(row.strategy for row in rows))
    items = list(joined.items.values())
    remarks = [
        *material.remarks,
        *_remarks(items, rows, strategies, unknown),
        *_question_remarks(joined, answers),
        *_picture_remarks(same_pictures, answers),
    ]
    if len(answers) < len(all_answers):
        remarks.append(f"{len(all_answers) - len(answers)} answers are of other benchmarks")
    evaluation = replace(benchmark.evaluate(items, rows, strategies), costs=())
    return Scored(Part(benchmark, items, {}, tuple(remarks)), evaluation, strategies, material.digest)


def _rows(
    benchmark: Benchmark, joined: Joined, answers: Sequence[ImportedAnswer], path: Path
) -> tuple[list[Row], list[str]]:
    """Return the answers with an item, and the ids of answers without one."""
    rows: list[Row] = []
    unknown: list[str] = []
    places: dict[tuple[str, str], str] = {}
    for id_, answer in zip(joined.ids, answers, strict=True):
        strategy = answer.strategy or path.stem
        if (id_, strategy) in places:
            raise DataError(f"{answer.where}: answers {id_!r} again, after {places[id_, strategy]}; keep one")
        places[id_, strategy] = answer.where
        if id_ in joined.items:
            rows.append(_row(benchmark.name, joined.items[id_], strategy, answer))
        else:
            unknown.append(id_)
    return rows, unknown


def _row(benchmark: str, item: Item, strategy: str, answer: ImportedAnswer) -> Row:
    fields = answer.fields
    error = fields.get("error")
    if error or not answer.texts:
        return Row(benchmark, item.id, strategy, "", "", 0, nan, 0, error=str(error or "the file has no answer"))
    stopped_by, tokens, extra = (fields.get(name) for name in ("stopped_by", "new_tokens", "extra"))
    return Row(
        benchmark,
        item.id,
        strategy,
        _answer(item, answer),
        stopped_by if isinstance(stopped_by, str) else "",
        tokens if isinstance(tokens, int) else 0,
        nan,
        0,
        extra if isinstance(extra, dict) else None,
    )


def _answer(item: Item, answer: ImportedAnswer) -> str:
    """Return the text of an answer; fields that repeat the question are ignored."""
    questions = {item.prompt.strip(), str(item.truth.get("question", "")).strip()} - {""}
    candidates = {name: text for name, text in answer.texts.items() if text.strip() not in questions}
    if not candidates:
        raise DataError(f"{answer.where}: {', '.join(answer.texts)} is the question itself; give a file of answers")
    if len(set(candidates.values())) > 1:
        raise DataError(f"{answer.where}: both {' and '.join(candidates)} could be the answer; keep one")
    return next(iter(candidates.values()))


def _refuse_unmeasured(benchmark: Benchmark, rows: Sequence[Row], path: Path) -> None:
    measures = type(benchmark).measure is not Benchmark.measure
    lacking = [row for row in rows if row.error is None and row.extra is None]
    if measures and lacking:
        raise DataError(
            f"{path}: {benchmark.name} needs what it measures while a model answers, and {len(lacking)} answers "
            "lack that (field extra); only exports of its own runs can be scored"
        )


def _refuse_labels_and_prompts(
    joined: Joined, answers: Sequence[ImportedAnswer], rows: Sequence[Row], path: Path
) -> None:
    """Refuse labels in place of answers if another field looks like the answers, and answers with their prompt.

    Raises:
        DataError: The texts are labels, or contain their question.
    """
    items = joined.items
    answered = [
        (items[id_], answer) for id_, answer in zip(joined.ids, answers, strict=True) if id_ in items and answer.texts
    ]
    pairs = [(_word(str(item.truth.get("label"))), answer) for item, answer in answered]
    if pairs and all(set(map(_word, answer.texts.values())) == {label} for label, answer in pairs):
        first = pairs[0][1]
        expected_fields = {
            *IDS,
            *QUESTIONS,
            "category",
            *(n for n in TEXTS if not isinstance(first.fields.get(n), int | float)),
        }
        for name in (name for name in first.fields if name not in expected_fields):
            numbers = _NUMBERS if name in TEXTS else {}
            read = [
                numbers.get(str(answer.fields.get(name))) or parse_strict(str(answer.fields.get(name)))
                for _, answer in pairs
            ]
            if all(read) and len(set(read)) > 1 and read != [label for label, _ in pairs]:  # one word for all: a flag
                raise DataError(
                    f"{path}: {' and '.join(first.texts)} is the label of every item, and {name} may be what the "
                    f"model said; give that as one of {', '.join(MODELS[:3])}, and leave the other out"
                )
    questions_and_texts = [(items[row.item].prompt.rpartition("?")[0], row.text) for row in rows if row.error is None]
    if questions_and_texts and all(question and question in text for question, text in questions_and_texts):
        raise DataError(f"{path}: every answer holds its question; give what the model said, without its prompt")


def _word(text: str) -> str:
    """Normalize a one-word answer for comparison with labels."""
    return text.strip().rstrip(".").lower()


def _remarks(
    items: Sequence[Item], rows: Sequence[Row], strategies: Sequence[str], unknown: Sequence[str]
) -> list[str]:
    remarks = []
    if unknown:
        remarks.append(f"{len(unknown)} answers are for no item, such as {_examples(unknown)}, and do not count")
    for strategy in strategies:
        answered = {row.item for row in rows if row.strategy == strategy}
        missing = [item.id for item in items if item.id not in answered]
        if missing:
            remarks.append(
                f"{strategy} has no answer to {len(missing)} of {len(items)} items, such as {_examples(missing)}"
            )
    return remarks


def _same_pictures(joined: Joined, material: Material, answers: Sequence[ImportedAnswer]) -> dict[str, bool]:
    """Compare the picture digests of answers with the pictures of the data, where both exist: item id to equality."""
    digests: dict[Path, str] = {}
    same: dict[str, bool] = {}
    for id_, answer in zip(joined.ids, answers, strict=True):
        item, digest = joined.items.get(id_), answer.fields.get(DIGEST)
        path = material.pictures.get(item.picture or "") if item is not None else None
        if isinstance(digest, str) and path is not None and path.is_file():
            if path not in digests:
                digests[path] = file_digest(path)
            same[id_] = same.get(id_, True) and digests[path] == digest
    return same


def _picture_remarks(same_pictures: Mapping[str, bool], answers: Sequence[ImportedAnswer]) -> list[str]:
    """Return remarks on items about other pictures, and on exports without digests."""
    other = [id_ for id_, same in same_pictures.items() if not same]
    remarks = []
    if other:
        remarks.append(
            f"the answers to {len(other)} items, such as {_examples(other)}, are about other pictures than --data has "
            "by these names, and do not count"
        )
    if any(
        answer.benchmark is not None and answer.fields.get(DIGEST) is None and answer.fields.get("picture")
        for answer in answers
    ):
        remarks.append("the file has no digests of its pictures, so that these are taken to be those of --data by name")
    return remarks


def _question_remarks(joined: Joined, answers: Sequence[ImportedAnswer]) -> list[str]:
    """Return a remark on answers that repeat another question than their item's."""
    pairs = [
        (joined.items[id_], answer) for id_, answer in zip(joined.ids, answers, strict=True) if id_ in joined.items
    ]
    other = [(item, answer) for item, answer in pairs if repeats_other_question(item, answer)]
    if not other:
        return []
    item, answer = other[0]
    return [
        f"{len(other)} answers repeat another question than the one they are scored by: {answer.where} has "
        f"{answer.questions[0]!r:.80}, the data {item.prompt!r:.80}; check that the ids are those of --data"
    ]


def _examples(ids: Any) -> str:
    return ", ".join(repr(id_) for id_ in list(ids)[:3])
