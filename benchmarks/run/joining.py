"""Matching of imported answers with the items of a benchmark.

By id       The item's id; POPE's question_id, a number in each setting; or the several fields that together identify an
            item (`Benchmark.keys`). If questions have numbers in several files, each file's question counts
            separately: a run asks it once, but other tools may have two different answers.
By picture  A picture is given by its id, its file name with or without folder or suffix, or the number in COCO's name.
            If it has several questions, the answer must repeat its question.
By position Answers without ids, or with ids that match no item or contradict other fields, in the order of the
            question file, or of the files of several settings one after the other, as LLaVA asks them: only if every
            answer repeats the question at its position, the data has several questions, and no answer names the picture
            of another position.
Refused     Ids that contradict the question or picture of the same record: numbers from 0 instead of
            1, of another set of questions, of other pictures.
Question    Compared up to its last question mark: the instruction after it differs from script to script.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, permutations
from pathlib import Path, PurePosixPath
from typing import Any

from mmhall.benchmarks.base import Benchmark, Item, Material
from mmhall.benchmarks.data.pope_cells import split_cell
from mmhall.benchmarks.data.pope_maker import SETTINGS
from mmhall.errors import DataError
from mmhall.results.imports import IDS, PICTURES, ImportedAnswer, describe_answers

_NUMBERS = 3  # the last of the levels of a picture's names
_COCO_NUMBER = re.compile(r"(?:COCO_[a-z]+20[0-9]{2}_)?0*([0-9]+)")  # of its files, in both years' spelling


@dataclass(frozen=True, slots=True)
class Joined:
    """The match of answers with items.

    Attributes:
        items: All items, by id.
        ids: Item id of each answer, in order; an answer without an item has an unknown id.
    """

    items: Mapping[str, Item]
    ids: tuple[str, ...]

    @property
    def hits(self) -> int:
        """Number of answers with an item."""
        return sum(id_ in self.items for id_ in self.ids)


@dataclass(frozen=True, slots=True)
class _NumberedItems:
    """Items by setting and number of their questions.

    Attributes:
        items: One item for each number of each setting, by "setting/number"; without settings, by item id.
        settings: Settings with numbered questions; empty without numbers.
        default: Setting of answers without one.
    """

    items: Mapping[str, Item]
    settings: tuple[str, ...] = ()
    default: str | None = None

    def setting(self, answer: ImportedAnswer) -> str | None:
        """Return the setting of an answer, or the default; None: unknown."""
        category = (answer.category or "").lower()
        if self.default is not None and split_cell(self.default)[1] == category:
            return self.default
        return category if category in (*self.settings, *(SETTINGS if self.settings else ())) else self.default


def join(benchmark: Benchmark, material: Material, answers: Sequence[ImportedAnswer], path: Path) -> Joined:
    """Match each answer with an item, by the first method that works for the file.

    Args:
        benchmark: The benchmark.
        material: Items and pictures of the benchmark.
        answers: The answers.
        path: The file; its name may contain a setting.

    Raises:
        DataError: The answers do not identify their items, or identify them in contradictory ways.
    """
    keys, items = benchmark.keys, material.items
    by_id = {item.id: item for item in items}
    if keys and all(key in answer.fields for answer in answers for key in keys):
        return Joined(by_id, tuple("_".join(str(answer.fields[key]) for key in keys) for answer in answers))
    kinds = [kind for kind in IDS if all(kind in answer.ids for answer in answers)]
    numbered = _number_items(items, path)
    if not kinds:
        _refuse_mixed(answers)
        return _join_by_position(numbered, answers, path)
    pictures = [kind for kind in kinds if kind in PICTURES]
    if len({item.picture for item in items}) == len(items) and pictures and kinds[0] != "item":
        kinds = pictures  # a running number beside the picture is no id
    first_joined: Joined | None = None
    refusal: DataError | None = None
    for kind in kinds:
        try:
            joined = _join_by_field(material, numbered, by_id, answers, kind)
            if joined.hits:
                if kind != "item":
                    _refuse_contradictions(joined, material, answers, kind)
                return joined
            first_joined = first_joined or joined
        except DataError as error:
            refusal = refusal or error
    if kinds[0] != "item" and all(answer.questions for answer in answers):
        with suppress(DataError):
            joined = _join_by_position(numbered, answers, path)
            _refuse_contradictions(joined, material, answers, kinds[0])
            return joined
    if refusal is not None:
        raise refusal
    assert first_joined is not None
    return first_joined


def _join_by_field(
    material: Material,
    numbered: _NumberedItems,
    by_id: Mapping[str, Item],
    answers: Sequence[ImportedAnswer],
    kind: str,
) -> Joined:
    joined = _join_by_number(numbered, answers, kind) if kind == "question_id" and numbered.settings else None
    joined = joined or Joined(by_id, tuple(answer.ids[kind] for answer in answers))
    if kind != "item" and not joined.hits:
        joined = _join_by_picture(material, numbered, answers, kind) or joined
    return joined


def _refuse_contradictions(joined: Joined, material: Material, answers: Sequence[ImportedAnswer], kind: str) -> None:
    """Refuse ids that contradict the question or picture of their record, or that count from 0 instead of from 1.

    Raises:
        DataError: An answer repeats the question of another item, or names another picture than its item's.
    """
    questions = {normalize_question(question_of(item)) for item in material.items}
    names = items_by_name(material.items, material.pictures)
    advice = "check that --data has the questions that were asked, and that the ids are its own"
    numbers = {answer.ids[kind] for id_, answer in zip(joined.ids, answers, strict=True) if id_ in joined.items}
    for id_, answer in zip(joined.ids, answers, strict=True):
        item, number = joined.items.get(id_), answer.ids[kind]
        if item is None:
            if number == "0" and "1" in numbers:
                raise DataError(
                    f"{answer.where}: counts from {kind} 0, the data from 1, so that answers would move; {advice}"
                )
            continue
        others = {normalize_question(text) for text in answer.questions if "?" in text} & questions
        if others and not _repeats_question(item, answer):
            raise DataError(
                f"{answer.where}: {kind} {number!r} is {question_of(item)!r:.80} in the data, but the answer repeats "
                f"{answer.questions[0]!r:.80}, which is another; {advice}"
            )
        _refuse_other_picture(item, answer, names, advice)


def _refuse_other_picture(
    item: Item, answer: ImportedAnswer, names: Sequence[Mapping[str, list[Item]]], advice: str
) -> None:
    for name in (answer.ids[field] for field in PICTURES if field in answer.ids):
        about = items_about(names, name)
        if item.picture is not None and about and all(each.picture != item.picture for each in about):
            raise DataError(
                f"{answer.where}: names picture {name!r:.80}, but by its id it is about {item.picture!r:.80}; {advice}"
            )


def _refuse_mixed(answers: Sequence[ImportedAnswer]) -> None:
    first = answers[0]
    for answer in answers:
        if bool(answer.ids) != bool(first.ids) or (not set(answer.ids) & set(first.ids) and answer.ids):
            names = [next(iter(each.ids), "itself alone") for each in (answer, first)]
            raise DataError(f"{answer.where}: names its question by {names[0]}, but {first.where} by {names[1]}")
    common = next((answer for answer in answers if first.ids), None)
    if common is not None:
        raise DataError(f"{first.where}: the answers have no field in common that names a question; give one of "
                        f"{', '.join(IDS)} to all")  # fmt: skip


def _number_items(items: Sequence[Item], path: Path) -> _NumberedItems:
    if not all("ids" in item.truth for item in items):
        return _NumberedItems({item.id: item for item in items})
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
    named = settings if len(settings) == 1 else [s for s in settings if all(w in path.name.lower() for w in s.split())]
    other = {setting for setting in SETTINGS if setting in path.stem.lower()}
    if settings and other and not other & {split_cell(setting)[1] for setting in settings}:
        reason = f"its name has the setting {', '.join(sorted(other))}, the data is of {', '.join(settings)}"
        raise DataError(f"{path}: {reason}; give the questions it answers, or rename it")
    return _NumberedItems(numbered, settings, named[0] if len(named) == 1 else None)


def _join_by_number(numbered: _NumberedItems, answers: Sequence[ImportedAnswer], kind: str) -> Joined:
    return Joined(numbered.items, tuple(_number(numbered, answer, answer.ids[kind]) for answer in answers))


def _number(numbered: _NumberedItems, answer: ImportedAnswer, id_: str) -> str:
    setting = numbered.setting(answer)
    if setting is not None:
        return f"{setting}/{id_}"
    having = [s for s in numbered.settings if f"{s}/{id_}" in numbered.items]
    if len(having) > 1:
        raise DataError(
            f"{answer.where}: question_id {id_} is in {', '.join(having)}; give its setting in a field "
            "category, in the file's name, or by giving one question file as --data"
        )
    return f"{having[0]}/{id_}" if having else id_


def _join_by_picture(
    material: Material, numbered: _NumberedItems, answers: Sequence[ImportedAnswer], kind: str
) -> Joined | None:
    """Match by picture, and by question if a picture has several; None: no picture is known."""
    told_settings = bool(numbered.settings) and all(numbered.setting(answer) for answer in answers)
    items = numbered.items if told_settings else {item.id: item for item in material.items}
    names = items_by_name(items.values(), material.pictures)[
        : None if kind in PICTURES else -1
    ]  # a bare number may be another
    ids = []
    for answer in answers:
        about = items_about(names, answer.ids[kind])
        setting = numbered.setting(answer) if told_settings else answer.category
        if any(setting in item.groups for item in about):
            about = [item for item in about if setting in item.groups]
        ids.append(_match_question(about, answer, kind) if about else answer.ids[kind])
    joined = Joined(items, tuple(ids))
    return joined if joined.hits else None


def items_by_name(items: Iterable[Item], pictures: Mapping[str, Path]) -> list[dict[str, list[Item]]]:
    """Index items by the names of their pictures: one mapping for each kind of name, the most certain first."""
    levels: list[dict[str, list[Item]]] = [{}, {}, {}, {}]
    for item in items:
        if item.picture is None:
            continue
        file = pictures.get(item.picture, Path(item.picture))
        number = _COCO_NUMBER.fullmatch(file.stem)
        named = (
            {item.picture, item.id.rpartition("/")[0]} - {""},
            {file.name},
            {file.stem},
            {number[1]} if number else set[str](),
        )
        for level, names in zip(levels, named, strict=True):
            for name in names:
                level.setdefault(name, []).append(item)
    return levels


def items_about(names: Sequence[Mapping[str, list[Item]]], id_: str) -> list[Item]:
    """Return the items about a picture; its name may have a folder, another suffix, or be the number in COCO's name.

    Args:
        names: Result of `items_by_name`.
        id_: Name of the picture.
    """
    path = PurePosixPath(id_.replace("\\", "/"))
    for name in dict.fromkeys((id_, path.name, path.stem)):
        items = next((level[name] for level in names if name in level), None)
        if items is not None:
            return items
    number = _COCO_NUMBER.fullmatch(path.stem)
    return names[_NUMBERS].get(number[1], []) if number and len(names) > _NUMBERS else []


def _match_question(about: Sequence[Item], answer: ImportedAnswer, kind: str) -> str:
    """Return the id of the item, among those about a picture, whose question the answer repeats.

    Raises:
        DataError: Several items match.
    """
    if len(about) > 1 and answer.questions:
        same = [item for item in about if _repeats_question(item, answer, whole=True)]
        about = same or [item for item in about if _repeats_question(item, answer)]
        if not about:
            return f"{answer.ids[kind]}: {answer.questions[0]}"
    if len(about) > 1:
        more = "several pictures or questions fit it" if answer.questions else "give its question, too"
        raise DataError(
            f"{answer.where}: {kind} {answer.ids[kind]!r} may be {', '.join(repr(i.id) for i in about[:3])}; {more}"
        )
    return about[0].id


def _join_by_position(numbered: _NumberedItems, answers: Sequence[ImportedAnswer], path: Path) -> Joined:
    """Match answers by position; each must repeat the question at its position.

    Raises:
        DataError: A question differs from that at its position, or all questions are equal.
    """
    questions = {normalize_question(question_of(item)) for item in numbered.items.values()}
    if len(questions) == 1:
        raise DataError(
            f"{answers[0].where}: answers have no id, and the data asks only {questions.pop()!r:.80}, so that the "
            f"question does not say which item an answer is for; give each answer one of {', '.join(IDS)}"
        )
    left: dict[str, list[Item]] = {}
    for item in sorted(numbered.items.values(), key=_number_of) if numbered.settings else numbered.items.values():
        left.setdefault(item.groups[0] if numbered.settings else "", []).append(item)
    if numbered.settings and all(numbered.setting(answer) is None for answer in answers):
        return Joined(numbered.items, tuple(item.id for item in _setting_order(numbered, left, answers)))
    ids, counts = [], dict.fromkeys(left, 0)
    for answer in answers:
        setting = numbered.setting(answer) if numbered.settings else ""
        if setting is None:
            raise DataError(f"{answer.where}: {_no_setting(numbered)}")
        place, order = counts.get(setting, 0), left.get(setting, [])
        counts[setting] = place + 1
        if place >= len(order) or not _repeats_question(order[place], answer):
            due = repr(question_of(order[place])) if place < len(order) else "none"
            raise DataError(
                f"{answer.where}: answers have no id, and are matched by position only where each question is that of "
                f"its place; at place {place + 1} the data has {due}, the file {answer.questions[0]!r:.80}; "
                f"{path.name} is {describe_answers(answers)}, give each answer one of {', '.join(IDS)}"
            )
        ids.append(order[place].id)
    return Joined(numbered.items, tuple(ids))


def _setting_order(
    numbered: _NumberedItems, left: Mapping[str, list[Item]], answers: Sequence[ImportedAnswer]
) -> list[Item]:
    """Return the items of all settings, in the only order of settings in which each answer repeats its question.

    Raises:
        DataError: There is no such order, or there are several.
    """
    fitting = []
    for order in permutations(left.values()) if len(left) <= len(SETTINGS) else ():
        items = list(chain.from_iterable(order))
        if len(items) == len(answers) and all(map(_repeats_question, items, answers)):
            fitting.append(items)
    if len(fitting) != 1:
        raise DataError(f"{answers[0].where}: {_no_setting(numbered)}")
    return fitting[0]


def _no_setting(numbered: _NumberedItems) -> str:
    return (
        f"has a question and no id, and the data has {', '.join(numbered.settings)}; give its setting in a field "
        "category, in the file's name, or by giving one question file as --data"
    )


def _number_of(item: Item) -> tuple[bool, int, str]:
    number = next(iter(item.truth["ids"].values()))[0]
    return isinstance(number, str), number if isinstance(number, int) else 0, str(number)


def repeats_other_question(item: Item, answer: ImportedAnswer) -> bool:
    """Tell whether an answer repeats another question than the item's."""
    return any("?" in text for text in answer.questions) and "?" in item.prompt and not _repeats_question(item, answer)


def _repeats_question(item: Item, answer: ImportedAnswer, *, whole: bool = False) -> bool:
    item_texts = {normalize_question(text) for text in (item.prompt, question_of(item))} - {""}
    repeated = [normalize_question(text) for text in answer.questions]
    return any(text in item_texts or (not whole and any(part in text for part in item_texts)) for text in repeated)


def question_of(item: Item) -> str:
    """Return the question of an item, without the text after it where that is known."""
    return str(item.truth["question"]) if "ids" in item.truth and "question" in item.truth else item.prompt


def normalize_question(text: str) -> str:
    r"""Normalize a question for comparison.

    >>> normalize_question("<image> Is there  a dog?\nAnswer yes or no."), normalize_question("Describe it.")
    ('is there a dog?', 'describe it.')
    """
    text = " ".join(text.replace("<image>", " ").replace("imange", "image").lower().split())
    return text[: text.rindex("?") + 1] if "?" in text else text
