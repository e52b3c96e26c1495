"""Readers of benchmark files; error messages name the path and the place of invalid or incomplete data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhall import files
from mmhall.errors import DataError


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a file, with its place.

    Attributes:
        where: File and number of the entry, for error messages.
        fields: Fields of the entry.
    """

    where: str
    fields: Mapping[str, Any]

    def text(self, *names: str) -> str:
        """Return the first existing of several fields, as text; an integer is converted.

        Raises:
            DataError: No field exists, or it is neither a text nor an integer.
        """
        name = next((n for n in names if n in self.fields), names[0])
        value = self.fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and _is_valid_text(value):
            return value
        raise DataError(f"{self.where}: {name!r} must be a text, got {json.dumps(value)[:80]}")

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """Return a field as one of the allowed words, in their case.

        Raises:
            DataError: The field is none of them.
        """
        value = self.text(name)
        for word in allowed:
            if word.lower() == value.strip().lower():
                return word
        raise DataError(f"{self.where}: {name!r} must be {' or '.join(map(repr, allowed))}, got {value!r}")

    def texts(self, name: str) -> list[str]:
        """Return a field as a list of texts.

        Raises:
            DataError: The field is no list of texts.
        """
        value = self.fields.get(name)
        if isinstance(value, list) and all(isinstance(word, str) and _is_valid_text(word) for word in value):
            return value
        raise DataError(f"{self.where}: {name!r} must be a list of texts, got {json.dumps(value)[:80]}")


def _is_valid_text(text: str) -> bool:
    """Tell whether a text can be encoded: JSON may hold lone surrogates."""
    return text.encode(errors="replace").decode() == text


def read_text(path: Path, expected: str) -> str:
    """Read a text file.

    Args:
        path: The file.
        expected: What it should be, in words, such as "AMBER's annotations".

    Raises:
        DataError: It cannot be read.
    """
    try:
        return files.read_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; expected {expected}") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder; expected {expected}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; expected {expected}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text; expected {expected}") from error


def read_json(path: Path, expected: str) -> Any:
    """Read a JSON file; see `read_text`.

    Raises:
        DataError: The file cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(path, expected))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error}); expected {expected}") from error


def read_records(path: Path, expected: str) -> list[Record]:
    """Read a JSON array of objects, or JSON Lines.

    Raises:
        DataError: The file cannot be read, is of another format, or is empty.
    """
    text = read_text(path, expected)
    entries: Iterable[tuple[str, Any]]
    if text.lstrip().startswith("["):
        entries = ((f"{path}, entry {n}", entry) for n, entry in enumerate(read_json(path, expected), 1))
    else:
        entries = _lines(path, text, expected)
    records = []
    for where, entry in entries:
        if not isinstance(entry, dict):
            raise DataError(f"{where}: is no JSON object; expected {expected}")
        records.append(Record(where, entry))
    if not records:
        raise DataError(f"{path}: is empty; expected {expected}")
    return records


def _lines(path: Path, text: str, expected: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: is no JSON ({error}); expected {expected}") from error


def check_unique(records: Iterable[tuple[str, str]], kind: str) -> None:
    """Check that no name is repeated.

    Args:
        records: Place and name of each record.
        kind: What the names are, such as "question".

    Raises:
        DataError: A name is repeated.
    """
    places: dict[str, str] = {}
    for where, name in records:
        if name in places:
            raise DataError(f"{where}: {kind} {name!r} is there already ({places[name]}); each may come once")
        places[name] = where


def find_pictures(names: Iterable[str], folders: Sequence[Path], required: bool = True) -> dict[str, Path]:
    """Find picture files by name in several folders; if not required, missing files get a path in the first folder.

    Raises:
        DataError: Required files are missing.
    """
    requested = list(dict.fromkeys(names))
    paths = {n: path for n in requested for path in [_first(n, folders)] if path is not None}
    missing = [n for n in requested if n not in paths]
    if not required:
        return {n: paths.get(n, folders[0] / n) for n in requested}
    if missing:
        first, where = " ".join(missing[0].split()), " or ".join(map(str, folders))
        number = f"{len(missing)} of {len(requested)}"
        raise DataError(f"{first}: is not in {where} ({number} pictures are missing); check --images")
    return paths


def _first(name: str, folders: Sequence[Path]) -> Path | None:
    return next((folder / name for folder in folders if files.is_file(folder / name)), None)
