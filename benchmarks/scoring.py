"""Score answers made elsewhere: join them with a benchmark's items, and read them as those of a run.

Answers are joined by id, never by position. Where questions have numbers in several files (POPE's settings), each
file's question counts by itself: a run asks it once, but others may have got two different answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

from mmhall.benchmarks.base import Benchmark, Item, Source
from mmhall.benchmarks.evaluation import Evaluation
from mmhall.benchmarks.runs import Part
from mmhall.errors import DataError
from mmhall.results.imports import Given, read_answers
from mmhall.results.store import Row


@dataclass(frozen=True, slots=True)
class Scored:
    """What a file of answers shows.

    Attributes:
        part: The benchmark and the items that were joined.
        evaluation: Of the answers; costs nothing, as nobody knows.
        strategies: As the file names them, else the file's own name.
        items: Hash of the items, 16 hex digits.
    """

    part: Part
    evaluation: Evaluation
    strategies: tuple[str, ...]
    items: str


@dataclass(frozen=True, slots=True)
class _Join:
    """What answers' ids stand for.

    Attributes:
        items: By id as answers give it, with its setting where there are numbers.
        settings: Those that number their questions; empty: answers give the items' own ids.
        default: The setting of answers that say none.
    """

    items: Mapping[str, Item]
    settings: tuple[str, ...] = ()
    default: str | None = None

    def id(self, given: Given) -> str:
        """Return the id an answer is for."""
        if not self.settings:
            return given.id
        said = (given.category or "").lower()
        setting = said if said in self.settings else self.default
        if setting is not None:
            return f"{setting}/{given.id}"
        having = [s for s in self.settings if f"{s}/{given.id}" in self.items]
        if len(having) > 1:
            raise DataError(
                f"{given.where}: question_id {given.id} is in {', '.join(having)}; say which in a field category, "
                "in the file's name, or by giving one question file as --data"
            )
        return f"{having[0]}/{given.id}" if having else given.id


def score(benchmark: Benchmark, source: Source, path: Path) -> Scored:
    """Score a file of answers.

    Args:
        benchmark: Reads them.
        source: Of the items; pictures need not be there.
        path: The answers; see `mmhall.results.imports`.

    Raises:
        DataError: The data or the file is unfit, an item has two answers, or none has any.
    """
    material = benchmark.material(replace(source, pictures=False))
    given = read_answers(path)
    mine = [one for one in given if one.benchmark in (None, benchmark.name)]
    if not mine:
        raise DataError(f"{path}: holds answers of {given[0].benchmark!r} alone, none of {benchmark.name!r}")
    join = _join(material.items, mine[0].kind, path)
    rows, unknown = _rows(benchmark, join, mine, path)
    if not rows:
        raise DataError(
            f"{path}: none of its {len(mine)} answers is for an item of {benchmark.name}: it has ids such as "
            f"{_examples(join.items)}, the file {_examples(unknown)}; check --data"
        )
    _refuse_unmeasured(benchmark, rows, path)
    strategies = tuple(dict.fromkeys(row.strategy for row in rows))
    items = list(join.items.values())
    remarks = [*material.remarks, *_remarks(items, rows, strategies, unknown)]
    if len(mine) < len(given):
        remarks.append(f"{len(given) - len(mine)} answers are of other benchmarks")
    evaluation = replace(benchmark.evaluate(items, rows, strategies), costs=())
    digest, _ = replace(material, pictures={}).digests()
    return Scored(Part(benchmark, items, {}, tuple(remarks)), evaluation, strategies, digest)


def _join(items: Sequence[Item], kind: str, path: Path) -> _Join:
    if kind != "question_id" or not all("ids" in item.truth for item in items):
        return _Join({item.id: item for item in items})
    numbered: dict[str, Item] = {}
    for item in items:
        ids: Mapping[str, Sequence[Any]] = item.truth["ids"]
        others = tuple(group for group in dict.fromkeys(item.groups) if group not in ids)
        for setting, numbers in ids.items():
            for number in numbers:
                id_ = f"{setting}/{number}"
                truth = {**item.truth, "ids": {setting: [number]}}
                numbered[id_] = replace(item, id=id_, groups=(setting, *others), truth=truth)
    settings = tuple(dict.fromkeys(setting for item in items for setting in item.truth["ids"]))
    named = settings if len(settings) == 1 else [s for s in settings if s in path.name.lower()]
    return _Join(numbered, settings, named[0] if len(named) == 1 else None)


def _rows(benchmark: Benchmark, join: _Join, given: Sequence[Given], path: Path) -> tuple[list[Row], list[str]]:
    """Return the answers that are for an item, and the ids of those that are not."""
    rows: list[Row] = []
    unknown: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for one in given:
        id_, strategy = join.id(one), one.strategy or path.stem
        if (id_, strategy) in seen:
            raise DataError(f"{one.where}: answers {id_!r} again, after {seen[id_, strategy]}; keep one")
        seen[id_, strategy] = one.where
        if id_ in join.items:
            rows.append(_row(benchmark.name, join.items[id_], strategy, one))
        else:
            unknown.append(id_)
    return rows, unknown


def _row(benchmark: str, item: Item, strategy: str, given: Given) -> Row:
    fields = given.fields
    error = fields.get("error")
    if error or not given.texts:
        return Row(benchmark, item.id, strategy, "", "", 0, nan, 0, error=str(error or "the file has no answer"))
    stopped_by, tokens, extra = (fields.get(name) for name in ("stopped_by", "new_tokens", "extra"))
    return Row(
        benchmark,
        item.id,
        strategy,
        _answer(item, given),
        stopped_by if isinstance(stopped_by, str) else "",
        tokens if isinstance(tokens, int) else 0,
        nan,
        0,
        extra if isinstance(extra, dict) else None,
    )


def _answer(item: Item, given: Given) -> str:
    """Return an answer's text; a field that repeats the question is none."""
    questions = {item.prompt.strip(), str(item.truth.get("question", "")).strip()} - {""}
    said = {name: text for name, text in given.texts.items() if text.strip() not in questions}
    if not said:
        raise DataError(f"{given.where}: {', '.join(given.texts)} is the question itself; give a file of answers")
    if len(set(said.values())) > 1:
        raise DataError(f"{given.where}: both {' and '.join(said)} could be the answer; keep one")
    return next(iter(said.values()))


def _refuse_unmeasured(benchmark: Benchmark, rows: Sequence[Row], path: Path) -> None:
    measures = type(benchmark).measure is not Benchmark.measure
    lacking = [row for row in rows if row.error is None and row.extra is None]
    if measures and lacking:
        raise DataError(
            f"{path}: {benchmark.name} needs what it measures while a model answers, and {len(lacking)} answers "
            "lack that (field extra); only exports of its own runs can be scored"
        )


def _remarks(
    items: Sequence[Item], rows: Sequence[Row], strategies: Sequence[str], unknown: Sequence[str]
) -> list[str]:
    said = []
    if unknown:
        said.append(f"{len(unknown)} answers are for no item, such as {_examples(unknown)}, and do not count")
    for strategy in strategies:
        there = {row.item for row in rows if row.strategy == strategy}
        missing = [item.id for item in items if item.id not in there]
        if missing:
            said.append(
                f"{strategy} has no answer to {len(missing)} of {len(items)} items, such as {_examples(missing)}"
            )
    return said


def _examples(ids: Any) -> str:
    return ", ".join(repr(id_) for id_ in list(ids)[:3])
