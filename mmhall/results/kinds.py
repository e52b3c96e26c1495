"""Describe what a file seems to hold, for error messages about files of an unexpected kind."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmhall import files

_STARTS = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive or an Excel file",
    b"\x1f\x8b": "a file packed with gzip",
    b"SQLite format 3": "an SQLite database",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"\x80\x04": "a Python pickle",
    b"version https://git-lfs": "a pointer of Git LFS: the file itself was not fetched",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
}
_NAMES = 8
NO_TEXT = "no UTF-8 text"


def describe_file(path: Path) -> str:
    """Describe a file or folder: its kind, its columns or keys, its number of records.

    Args:
        path: The file or folder; a file that cannot be read is described as such.
    """
    try:
        if path.is_dir():
            names = sorted(entry.name for entry in path.iterdir())
            return f"a folder that holds {_join_names(names)}" if names else "an empty folder"
        with path.open("rb") as file:
            start = file.read(4096)
        kind = next((description for mark, description in _STARTS.items() if start.startswith(mark)), None)
        text = files.detect_encoding(path)
        if kind is not None or (b"\0" in start and text != "utf-16"):
            return kind or "a binary file"
        return _describe_text(files.read_text(path))
    except UnicodeDecodeError:
        return NO_TEXT
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"


def describe_data(data: Any) -> str:
    """Describe the content of a JSON file.

    >>> describe_data([{"id": 1, "text": "a"}]), describe_data({"a": 1}), describe_data([])
    ('a list of 1 records with the fields id, text', 'an object with the keys a', 'an empty list')
    """
    if isinstance(data, Mapping):
        return f"an object with the keys {_join_names(list(data))}" if data else "an empty object"
    if isinstance(data, list):
        if not data:
            return "an empty list"
        first = data[0]
        of = f"records with the fields {_join_names(list(first))}" if isinstance(first, Mapping) else "values"
        return f"a list of {len(data)} {of}"
    return f"a single value, {json.dumps(data):.40}"


def _describe_text(text: str) -> str:
    if not text.strip():
        return "an empty file"
    try:
        return f"JSON, {describe_data(json.loads(text))}"
    except (ValueError, RecursionError):
        pass
    first = text.lstrip().split("\n", 1)[0].strip()
    try:
        record = json.loads(first)
        lines = sum(bool(line.strip()) for line in text.split("\n"))
        return f"JSON Lines, {describe_data([record] * lines)}"
    except (ValueError, RecursionError):
        pass
    mark = next((mark for mark in "\t,;" if mark in first), None)
    if mark is not None and first[0] not in "[{<":
        return f"a table with the columns {_join_names(next(csv.reader([first], delimiter=mark)))}"
    return f"text that begins with {first[:40]!r}"


def _join_names(names: list[Any]) -> str:
    shown = ", ".join(str(name)[:40] for name in names[:_NAMES])
    return f"{shown} and {len(names) - _NAMES} more" if len(names) > _NAMES else shown
