"""Answers made elsewhere, read from a file.

JSON Lines or one JSON array, of our export, of lm-evaluation-harness's sample logs, or as the official scripts of
benchmarks take them: `question_id` with `answer` or `text`, `id` with `response`, `image_id` with `caption`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhall import files
from mmhall.errors import DataError

IDS = ("item", "question_id", "image_id", "id")
TEXTS = ("resps", "filtered_resps", "answer", "text", "response", "caption")
_LIKE = '{"question_id": 1, "answer": "Yes"}'


@dataclass(frozen=True, slots=True)
class Given:
    """One answer made elsewhere.

    Attributes:
        where: File and line, for messages.
        kind: Which field says what it answers: one of `IDS`.
        id: What that says.
        category: Part of the benchmark that the id belongs to; None: not said.
        texts: What may be the answer, by field; empty: there is none.
        benchmark: Its benchmark; None: not said.
        strategy: How it was decoded; None: not said.
        fields: Everything.
    """

    where: str
    kind: str
    id: str
    category: str | None
    texts: Mapping[str, str]
    benchmark: str | None
    strategy: str | None
    fields: Mapping[str, Any]


def read_answers(path: Path) -> list[Given]:
    """Read a file of answers.

    Raises:
        DataError: It cannot be read, is of another kind or torn, or a record lacks its id or text.
    """
    given = [
        _given(fields, where) for where, fields in entries(path, "a file of answers, as JSON Lines or a JSON array")
    ]
    if not given:
        raise DataError(f"{path}: holds no answers; give JSON Lines or a JSON array of records such as {_LIKE}")
    first = given[0]
    for one in given:
        if one.kind != first.kind:
            raise DataError(f"{one.where}: names its question by {one.kind}, but {first.where} by {first.kind}")
    return given


def entries(path: Path, what: str) -> list[tuple[str, Any]]:
    """Return the records of JSON Lines or a JSON array, each with where it stands.

    Args:
        path: The file.
        what: What to give instead of a file that is none, in words.

    Raises:
        DataError: It cannot be read, or a record is no JSON.
    """
    try:
        text = files.read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; give {what}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: is not UTF-8 text; give {what}") from error
    if text.lstrip().startswith("["):
        return [(f"{path}, record {i}", entry) for i, entry in enumerate(_parsed(text, str(path)), start=1)]
    lines = [(f"{path}, line {i}", line) for i, line in enumerate(text.split("\n"), start=1)]
    return [(where, _parsed(line, where)) for where, line in lines if line.strip()]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is no JSON ({error}); the file is torn or of another kind") from error


def _given(fields: Any, where: str) -> Given:
    """Check one record; an id may also stand in a sample log's `doc`."""
    if not isinstance(fields, dict):
        raise DataError(f"{where}: must be an object such as {_LIKE}, got {fields!r:.60}")
    doc = fields["doc"] if isinstance(fields.get("doc"), dict) else {}
    order = ("item", "image_id", "question_id", "id") if "caption" in fields else IDS
    told = next(((name, one[name]) for one in (fields, doc) for name in order if name in one), None)
    if told is None:
        raise DataError(
            f"{where}: does not say what it answers; answers are never matched by position, "
            f"so give each one of {', '.join(IDS)}"
        )
    kind, id_ = told
    if isinstance(id_, bool) or not isinstance(id_, int | str):
        raise DataError(f"{where}: {kind} must be a number or text, got {id_!r:.60}")
    texts = {name: _text(fields[name], f"{where}: {name}") for name in TEXTS if name in fields}
    if not texts and not fields.get("error"):
        raise DataError(f"{where}: has no answer; give it as one of {', '.join(TEXTS)}")
    if "resps" in texts:
        texts.pop("filtered_resps", None)  # what the model said, before anything was cut from it
    return Given(
        where,
        kind,
        str(id_),
        _said(fields, "category") or _said(doc, "category"),
        {name: text for name, text in texts.items() if text is not None},
        _said(fields, "benchmark"),
        _said(fields, "strategy"),
        fields,
    )


def _text(value: Any, what: str) -> str | None:
    """Return an answer's text, out of the lists that sample logs wrap it in; None: there is none."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == []:
        return None
    if not isinstance(value, str):
        raise DataError(f"{what} must be one text, got {value!r:.60}")
    return value


def _said(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and value else None
