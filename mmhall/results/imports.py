"""Import of answers that other tools have written.

Formats: JSON Lines, one JSON array, JSON objects one after the other, or a table (.csv, .tsv) with a header line:
the export of mmhall, sample logs of lm-evaluation-harness and lmms-eval, or the input of the benchmarks' scripts:
`question_id` with `answer` or `text`, `id` with `response`, `image_id` or `image` with `caption`, the question with
`answer` or `prediction`. Or MME's own results: a folder with a text file for each category, or one of these, with
lines of picture, question, label and answer, tabs between.

Label    Beside a field that can only hold the model's answer (`resps`, else `MODELS`), `answer` may be the label.
         The answer fields are chosen once for the whole file; a record without them has no answer.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from mmhall import files
from mmhall.errors import DataError
from mmhall.results.kinds import NO_TEXT, describe_data, describe_file

PICTURES = ("image_id", "image", "image_name", "image_path", "image_file", "file_name", "filename")
IDS = ("item", "question_id", "id", *PICTURES)
QUESTIONS = ("question", "prompt", "query")
MODELS = (
    *("model_prediction", "model_answer", "model_response", "model_output", "llm_answer"),
    *("prediction", "predict", "predicted", "predicted_answer", "pred", "pred_answer", "pred_response"),
    *("generated_text", "generated_answer"),
)
LOGGED = ("resps",)  # the answer before any filter
TEXTS = (
    *(*MODELS, *LOGGED, "filtered_resps", "answer", "text", "response", "caption"),
    *("output", "outputs", "text_output", "completion"),
)
_LIKE = '{"question_id": 1, "answer": "Yes"}'
_COLUMNS = 4  # of MME's results
_TABLES = (".csv", ".tsv")
_BLANK = re.compile(r"\s*")
_WHOLE = re.compile(r"([0-9]+)\.0+")


@dataclass(frozen=True, slots=True)
class ImportedAnswer:
    """One imported answer.

    Attributes:
        where: File and line, for error messages.
        ids: Fields that may identify the item, in the order of `IDS`.
        questions: Texts that may be the question.
        category: Part of the benchmark that the id belongs to; None: not given.
        texts: Texts that may be the answer, by field; empty: there is no answer.
        benchmark: Name of the benchmark; None: not given.
        strategy: Strategy that decoded the answer; None: not given.
        fields: All fields of the record, and those of `doc` in a sample log.
    """

    where: str
    ids: Mapping[str, str]
    questions: tuple[str, ...]
    category: str | None
    texts: Mapping[str, str]
    benchmark: str | None
    strategy: str | None
    fields: Mapping[str, Any]


def read_answers(path: Path) -> list[ImportedAnswer]:
    """Read a file of answers.

    Raises:
        DataError: The file is unreadable or of another kind, or a record has neither id nor question, or no answer.
    """
    expected = "a file of answers, as JSON Lines, a JSON array, or a table (.csv, .tsv)"
    reason = files.why_not_a_file(path)
    if reason not in (None, "is a folder"):
        raise DataError(f"{path}: {reason}; give {expected}")
    tables = sorted(path.glob("*.txt")) if reason is not None else [path] if path.suffix == ".txt" else []
    rows: list[tuple[str, Any]] = [row for table in tables for row in _lines_of_table(table)]
    rows = rows or (_rows_of_table(path, expected) if path.suffix.lower() in _TABLES else entries(path, expected))
    names = _answer_fields([fields for _, fields in rows if isinstance(fields, dict)])
    answers = [_make_answer(fields, where, names) for where, fields in rows]
    if not answers:
        raise DataError(f"{path}: holds no answers; give JSON Lines or a JSON array of records such as {_LIKE}")
    return answers


def _lines_of_table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the answers of one category in the format of MME's script; none if the first line has another format.

    Raises:
        DataError: The file cannot be read, or a later line has another format.
    """
    try:
        lines = files.read_text(path).split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as text; it is {describe_file(path)}") from error
    for number, line in enumerate(lines, 1):
        cells = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if len(cells) != _COLUMNS:
            if number == 1:
                return
            raise DataError(f"{path}, line {number}: has {len(cells)} cells; give picture, question, label and answer")
        image, question, _, answer = cells
        fields = {"category": path.stem, "image": image, "question": question, "answer": answer}
        yield f"{path}, line {number}", fields


def _rows_of_table(path: Path, expected: str) -> list[tuple[str, Any]]:
    """Return the rows of a table by the fields of its header line; an empty answer cell is kept, others are dropped.

    Raises:
        DataError: The file cannot be read, the header repeats a field, or a row has another number of cells.
    """
    rows_read: list[tuple[str, Any]] = []
    with io.StringIO(_read_text(path, expected), newline="") as file:
        first = file.readline()
        file.seek(0)
        mark = files.csv_delimiter(first)
        rows = csv.DictReader(file, strict=True, delimiter="\t" if path.suffix.lower() == ".tsv" else mark)
        try:
            named = [name for name in rows.fieldnames or () if name]
            twice = next((name for name in named if named.count(name) > 1), None)
            if twice is not None:
                raise DataError(f"{path}: has two columns {twice!r:.60}; keep one, or rename the other")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if None in row or None in row.values():
                    raise DataError(
                        f"{where}: has other cells than the first line, {first.strip():.60}; correct the table"
                    )
                rows_read.append(
                    (where, {n: _normalize_cell(n, cell) for n, cell in row.items() if cell or n in TEXTS})
                )
        except csv.Error as error:
            raise DataError(f"{path}: is no table ({error}); give {expected}") from error
    return rows_read


def _normalize_cell(name: str, cell: str) -> str:
    """Return a cell, with 1.0 as 1: pandas writes whole numbers so in columns with missing values."""
    whole = _WHOLE.fullmatch(cell) if name not in TEXTS else None
    return whole[1] if whole else cell


def describe_answers(answers: Sequence[ImportedAnswer]) -> str:
    """Describe answers by their number and the fields of the first."""
    return describe_data([answers[0].fields] * len(answers))


def entries(path: Path, expected: str) -> list[tuple[str, Any]]:
    """Return the JSON values of a file (JSON Lines, a JSON array, or values one after the other), each with its place.

    Args:
        path: The file.
        expected: What to give instead of a file that is none, in words.

    Raises:
        DataError: The file cannot be read, or holds invalid JSON.
    """
    text = _read_text(path, expected)
    if text.lstrip().startswith("["):
        try:
            return [(f"{path}, record {i}", entry) for i, entry in enumerate(json.loads(text), start=1)]
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is no JSON ({error}); the file is damaged or of another kind") from error
    return [(f"{path}, line {line}", value) for line, value in values(text, str(path))]


def _read_text(path: Path, expected: str) -> str:
    """Read a text file.

    Raises:
        DataError: The file cannot be read, or is not text.
    """
    try:
        return files.read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; give {expected}") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}; it is {describe_file(path)}, give {expected}"
        ) from error
    except ValueError as error:
        kind = describe_file(path)
        but = "" if kind == NO_TEXT else f" but {kind}"
        raise DataError(f"{path}: is not UTF-8 text{but}; give {expected}") from error


def values(text: str, path: str) -> Iterator[tuple[int, Any]]:
    """Yield the JSON values of a text, each with the number of its first line.

    Args:
        text: JSON values one after the other, separated by white space.
        path: Source of the text, for error messages.

    Raises:
        DataError: The text holds invalid JSON.
    """
    decoder, line, before = json.JSONDecoder(), 1, 0
    at = _skip_blanks(text, 0)
    while at < len(text):
        line, before = line + text.count("\n", before, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            first = text[before:].split("\n", 1)[0].strip()
            raise DataError(
                f"{path}, line {line}: is no JSON ({error}); the file is damaged or of another kind: it has {first:.60}"
            ) from error
        yield line, value
        at = _skip_blanks(text, at)


def _skip_blanks(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _answer_fields(records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the answer fields of a file: those of the most certain kind that some record fills with text or null."""
    for kind in (LOGGED, MODELS, TEXTS):
        names = tuple(n for n in kind if any(n in record and _is_text(record[n]) for record in records))
        if names:
            return names
    return TEXTS


def _make_answer(fields: Any, where: str, names: Sequence[str]) -> ImportedAnswer:
    """Check one record and build the answer; ids and question may also be in `doc` of a sample log."""
    if not isinstance(fields, dict):
        raise DataError(f"{where}: must be an object such as {_LIKE}, got {fields!r:.60}")
    doc = fields["doc"] if isinstance(fields.get("doc"), dict) else {}
    all_fields = {**doc, **fields}
    own_ids = {name: _id(all_fields[name], f"{where}: {name}") for name in IDS if all_fields.get(name) is not None}
    ids = {name: value for name, value in own_ids.items() if value is not None}
    questions = tuple(all_fields[name] for name in QUESTIONS if isinstance(all_fields.get(name), str))
    if not ids and not questions:
        raise DataError(
            f"{where}: does not say which item it answers; it has the fields {', '.join(map(str, fields)) or 'none'}; "
            f"give each answer one of {', '.join(IDS)}, or its question"
        )
    texts = {name: _text(fields[name], f"{where}: {name}") for name in names if name in fields}
    if not any(name in fields for name in TEXTS) and not fields.get("error"):
        raise DataError(
            f"{where}: has no answer among its fields {', '.join(map(str, fields))}; "
            f"give it as one of {', '.join(TEXTS)}"
        )
    return ImportedAnswer(
        where,
        ids,
        questions,
        _text_field(all_fields, "category"),
        {name: text for name, text in texts.items() if text is not None},
        _text_field(fields, "benchmark"),
        _text_field(fields, "strategy"),
        all_fields,
    )


def _id(value: Any, label: str) -> str | None:
    """Return an id as text; None where a picture field holds something else, as in sample logs."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes whole numbers so in columns with missing values
    if isinstance(value, int | str) and not isinstance(value, bool):
        return str(value)
    if label.rpartition(" ")[2] in PICTURES:
        return None
    raise DataError(f"{label} must be a number or text, got {value!r:.60}")


def _text(value: Any, label: str) -> str | None:
    """Return the text of an answer; None if there is no answer."""
    if not _is_text(value):
        raise DataError(f"{label} must be one text, got {_unwrap(value)!r:.60}")
    text = _unwrap(value)
    return text if isinstance(text, str) else None


def _is_text(value: Any) -> bool:
    """Tell whether a field holds a text or nothing: null, an empty list, or pandas' NaN."""
    bare = _unwrap(value)
    return bare is None or bare == [] or isinstance(bare, str) or (isinstance(bare, float) and isnan(bare))


def _unwrap(value: Any) -> Any:
    """Return the only element of nested one-element lists, as sample logs have them."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def _text_field(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and value else None
