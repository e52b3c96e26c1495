"""POPE's question files: readers of all published formats, and a writer of the authors' format.

A set is up to three files, one for each setting, with the setting in the name: "coco_pope_popular.json". Each is JSON
Lines or one JSON array, with LF or CRLF, of {"question_id": 1, "image": "a.jpg", "text": "Is there ...",
"label": "yes"}. Numbers restart in every file, so a question is identified by setting and number. A folder may hold
several sets (`pope_cells`), also in folders of their own; their settings are then named with the set: "gqa popular".

A file may have several settings: then each record has a field `category`, and the file name has no other setting.

POPEv2's annotations.json is a set of its own, with the setting "v2": {"image_name": "/images/a.jpg", "query": "Is
there ...", "label": "Yes"}, pictures relative to --images, questions numbered from 1.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.data.pope_cells import CELLS, FOLDERS, SETS, set_of
from mmhall.benchmarks.data.pope_maker import SETTINGS, Question
from mmhall.benchmarks.data.pope_wording import in_version, object_of
from mmhall.benchmarks.rules.yesno import Label
from mmhall.errors import DataError
from mmhall.files import detect_encoding, is_file, why_not_a_file
from mmhall.results.imports import entries
from mmhall.results.kinds import describe_file

MANIFEST = "manifest.json"
POPE_V2 = "v2"
_WHAT = "POPE's question files"
_ENDINGS = (".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of one or several files.

    Attributes:
        questions: Questions by picture, in file order; a question of several files appears once.
        remarks: Counts and digests of the files.
    """

    questions: tuple[Question, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    """One line of a file."""

    number: int | str
    image: str
    text: str
    label: Label


def is_questions(path: Path) -> bool:
    """Tell whether a file, or a file in a folder, looks like POPE questions."""
    if path.is_dir():
        return any(is_questions(file) for file in _setting_files(path))
    if why_not_a_file(path) is not None or path.suffix == ".jsonl":
        return why_not_a_file(path) is None
    start = _read_start(path)
    return '"question_id"' in start or _is_popev2(start)


def _read_start(path: Path) -> str:
    try:
        with path.open(encoding=detect_encoding(path), errors="replace") as file:
            return file.read(4096)
    except OSError:
        return ""


def _is_popev2(start: str) -> bool:
    """Tell whether the start of a file is in POPEv2's format."""
    return '"image_name"' in start and '"query"' in start


def read_questions(path: Path, version: str = "fixed") -> QuestionSet:
    """Read one question file, or the files of a set in a folder.

    Args:
        path: File or folder.
        version: Version of the text: "fixed" or "legacy_typo".

    Raises:
        DataError: A file cannot be read, or has no setting, another file's, or another than its records; or a record
            is malformed.
    """
    files, records = _read_files(path)
    merged: dict[tuple[str, str, Label], dict[str, list[int | str]]] = {}
    for setting, listed in records.items():
        for record in listed:
            key = record.image, in_version(record.text, version), record.label
            merged.setdefault(key, {}).setdefault(setting, []).append(record.number)
    order = {image: i for i, image in enumerate(dict.fromkeys(image for image, _, _ in merged))}
    questions = tuple(
        Question(image, object_of(text), text, label, ids)
        for (image, text, label), ids in sorted(merged.items(), key=lambda pair: order[pair[0][0]])
    )
    return QuestionSet(questions, tuple(_remarks(files, records, questions)))


def write_questions(
    items: Sequence[Item],
    folder: Path,
    source_hash: str,
    seed: int,
    pictures: Mapping[str, Path] | None = None,
) -> Path:
    """Write POPE's items as the authors' JSON Lines files, one for each setting, with a manifest of counts and digests.

    Args:
        items: Items of `Pope`.
        folder: Output folder, created if needed; existing files are overwritten.
        source_hash: Digest of the annotations of the items.
        seed: Seed of the items.
        pictures: Picture id to file, to write paths below the common folder; by default ids are written.

    Returns:
        Path of the manifest.

    Raises:
        DataError: The folder cannot be written, or the items are not POPE's.
    """
    names = _names(pictures or {})
    listed: dict[str, list[dict[str, Any]]] = {setting: [] for setting in (*SETTINGS, *CELLS, POPE_V2)}
    for item in items:
        if "ids" not in item.truth or "question" not in item.truth:
            raise DataError(f"item {item.id!r} has no question to write; give items made by pope")
        picture = str(item.picture)
        question = {"image": names.get(picture, picture), "text": item.truth["question"], "label": item.truth["label"]}
        for setting, numbers in item.truth["ids"].items():
            listed[setting] += [{"question_id": number, **question} for number in numbers]
    manifest: dict[str, Any] = {"source": source_hash, "seed": seed, "files": {}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for setting, records in listed.items():
            if not records:
                continue
            records.sort(key=lambda r: (isinstance(r["question_id"], str), r["question_id"]))
            content = "".join(json.dumps(record) + "\n" for record in records).encode()
            name = "_".join([*setting.split()[:-1], "pope", f"{setting.split()[-1]}.json"])
            (folder / name).write_bytes(content)
            manifest["files"][name] = {
                "questions": len(records),
                "yes": sum(r["label"] == "yes" for r in records),
                "pictures": len({r["image"] for r in records}),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder}: cannot write questions: {error.strerror or error}") from error
    return folder / MANIFEST


def _names(pictures: Mapping[str, Path]) -> dict[str, str]:
    """Return each picture's path relative to the common folder."""
    if not pictures:
        return {}
    base = os.path.commonpath([path.resolve().parent for path in pictures.values()])
    return {name: path.resolve().relative_to(base).as_posix() for name, path in pictures.items()}


def _settings(path: Path) -> list[str]:
    return [setting for setting in SETTINGS if setting in path.name.lower()]


def _setting_files(folder: Path) -> list[Path]:
    """Return the files with a setting in their names, of a folder and of its folders for single sets."""
    try:
        own = [file for file in folder.iterdir() if file.suffix in _ENDINGS and is_file(file)]
        below = [path for name in FOLDERS if (path := folder / name).is_dir()]
        own += [file for each in below for file in each.iterdir() if file.suffix in _ENDINGS and is_file(file)]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    return sorted(file for file in own if _settings(file))


def _read_files(path: Path) -> tuple[dict[str, Path], dict[str, list[_Record]]]:
    """Return the file and the records of each setting, or of each set and setting if there are several sets."""
    if path.is_file() and _is_popev2(_read_start(path)):
        return {POPE_V2: path}, {POPE_V2: _records(entries(path, _WHAT), path)}
    listed = _setting_files(path) if path.is_dir() else [path]
    sets = {file: set_of(file, path) for file in listed}
    several = len(set(sets.values())) > 1
    if several and "" in sets.values():
        file = next(file for file, name in sets.items() if not name)
        raise DataError(f"{file}: its name must contain its set, one of {', '.join(SETS)}, as {path} holds several")
    files: dict[str, Path] = {}
    by_setting: dict[str, list[_Record]] = {}
    for file in listed:
        for setting, records in _split_by_setting(file).items():
            cell = f"{sets[file]} {setting}" if several else setting
            if cell in files:
                both = " and ".join(str(each.relative_to(path)) for each in (files[cell], file))
                raise DataError(f"{path}: holds two files for {cell}, {both}; keep one")
            files[cell], by_setting[cell] = file, _records(records, file)
    if not files:
        raise DataError(
            f"{path}: has no file with a setting in its name, {', '.join(SETTINGS)}; give POPE's question files"
        )
    return files, {cell: by_setting[cell] for cell in (*SETTINGS, *CELLS) if cell in by_setting}


def _split_by_setting(file: Path) -> dict[str, list[tuple[str, Any]]]:
    """Group a file's records by their field category, if all have it; else by the setting in the file name.

    Raises:
        DataError: There is no setting, or the two differ.
    """
    listed, named = entries(file, _WHAT), _settings(file)
    categories = [_category(entry) for _, entry in listed]
    if not categories or None in categories:
        if len(named) != 1:
            reason = f"its name must contain its setting, one of {', '.join(SETTINGS)}, or each record's category"
            raise DataError(f"{file}: {reason}; it is {describe_file(file)}")
        return {named[0]: listed}
    by_setting = {
        setting: [one for one, s in zip(listed, categories, strict=True) if s == setting] for setting in SETTINGS
    }
    by_setting = {setting: of_it for setting, of_it in by_setting.items() if of_it}
    if len(named) == 1 and named != list(by_setting):
        reason = f"its name has the setting {named[0]}, its records have the category {', '.join(by_setting)}"
        raise DataError(f"{file}: {reason}; rename it, or correct the records")
    return by_setting


def _category(entry: Any) -> str | None:
    """Return the setting in a record's category; None: no setting."""
    category = entry.get("category") if isinstance(entry, dict) else None
    return category.lower() if isinstance(category, str) and category.lower() in SETTINGS else None


def _records(listed: Sequence[tuple[str, Any]], path: Path) -> list[_Record]:
    """Check the records of one setting."""
    records: dict[str, _Record] = {}
    for place, (where, entry) in enumerate(listed, 1):
        record = _record(_from_popev2(entry, place), where)
        if str(record.number) in records:
            raise DataError(f"{where}: question_id {record.number!r} is there twice; a file must number each once")
        records[str(record.number)] = record
    if not records:
        raise DataError(f"{path}: holds no questions")
    return list(records.values())


def _from_popev2(entry: Any, place: int) -> Any:
    """Convert a record of POPEv2 to POPE's fields; other records stay unchanged."""
    if not isinstance(entry, dict) or not {"image_name", "query"} <= set(entry) or "question_id" in entry:
        return entry
    image = entry["image_name"]
    image = image.lstrip("/") if isinstance(image, str) else image
    return {"question_id": place, "image": image, "text": entry["query"], "label": entry.get("label")}


def _record(entry: Any, where: str) -> _Record:
    """Check one record."""
    if not isinstance(entry, dict):
        raise DataError(f"{where}: must be an object with question_id, image, text and label, got {entry!r:.60}")
    number, image, text, label = (entry.get(field) for field in ("question_id", "image", "text", "label"))
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise DataError(f"{where}: question_id must be a number or text, got {number!r}")
    for field, value in (("image", image), ("text", text)):
        if not isinstance(value, str) or not value.strip() or value.encode(errors="replace").decode() != value:
            raise DataError(f"{where}: {field} must be a text that is not empty, got {value!r:.60}")
    answer = label.strip().lower() if isinstance(label, str) else ""
    if answer not in ("yes", "no"):
        raise DataError(f'{where}: label must be "yes" or "no", got {label!r}')
    return _Record(number, str(image), str(text), "yes" if answer == "yes" else "no")


def _remarks(
    files: Mapping[str, Path], records: Mapping[str, Sequence[_Record]], questions: Sequence[Question]
) -> Iterable[str]:
    for setting, listed in records.items():
        digest = hashlib.sha256(files[setting].read_bytes()).hexdigest()[:16]
        yes = sum(record.label == "yes" for record in listed)
        yield f"{setting}: {len(listed)} questions ({yes} yes) from {files[setting].name}, sha256 {digest}"
    total = sum(map(len, records.values()))
    yield f"{len(questions)} distinct questions stand for {total}"
    both = len(questions) - len({(q.picture, q.text) for q in questions})
    if both:
        yield f"{both} questions have both labels and are scored with each"
