"""Export of records to files that other tools read: JSON Lines, Parquet, CSV.

JSON Lines keep nested fields; Parquet and CSV hold nested fields as JSON text. A file is complete or absent: it is
written under a temporary name in the same folder, then renamed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmhall import files
from mmhall.errors import OptionError, RunError

Records = Sequence[Mapping[str, Any]]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet reads cells with these first characters as formulas


def write_records(records: Records, path: Path, columns: Mapping[str, type], *, force: bool = False) -> None:
    """Write records to a file, in order.

    Args:
        records: Records of JSON values; their fields may differ.
        path: The file; its suffix sets the format.
        columns: Names and types of the first columns of Parquet and CSV, written even if no record has them.
        force: Overwrite a file that exists.

    Raises:
        OptionError: The suffix is of no known format.
        RunError: The file exists already, or cannot be written.
    """
    write = writer_for(path, force=force)
    try:
        with files.atomic_path(path) as scratch:
            write(records, scratch, columns)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def writer_for(path: Path, *, force: bool = False) -> Callable[[Records, Path, Mapping[str, type]], None]:
    """Return the function that writes the format of a file; call it before expensive work.

    Raises:
        OptionError: The suffix is of no known format.
        RunError: The file exists already, or its folder does not exist.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise OptionError("export", "to", str(path), f"a file whose name ends in {', '.join(_WRITERS)}")
    try:
        if path.is_dir():
            raise RunError(f"{path}: is a folder; give a file's name")
        if path.exists() and not force:
            raise RunError(f"{path}: exists already; give another name, or --force to overwrite it")
        if not path.absolute().parent.is_dir():
            raise RunError(f"{path}: its folder does not exist; make it first")
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be written: {error}") from error
    return write


def escape_formula(cell: Any) -> Any:
    """Return a cell that a spreadsheet does not read as a formula.

    >>> escape_formula("=1+1"), escape_formula("1+1"), escape_formula(-1)
    ("'=1+1", '1+1', -1)
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _json_lines(records: Records, path: Path, columns: Mapping[str, type]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")


def _csv(records: Records, path: Path, columns: Mapping[str, type]) -> None:
    names = list(_column_types(records, columns))
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([escape_formula(_text(name)) for name in names])
        lines.writerows([escape_formula(_flatten(record.get(name))) for name in names] for record in records)


def _parquet(records: Records, path: Path, columns: Mapping[str, type]) -> None:
    import pyarrow
    from pyarrow import parquet

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    arrays = {
        _text(name): pyarrow.array([_to_cell(kind, record.get(name)) for record in records], types[kind])
        for name, kind in _column_types(records, columns).items()
    }
    parquet.write_table(pyarrow.table(arrays), path)


_WRITERS = {".jsonl": _json_lines, ".parquet": _parquet, ".csv": _csv}


def _column_types(records: Records, columns: Mapping[str, type]) -> dict[str, type]:
    """Return the type of each column that fits all values of the column."""
    kinds = dict(columns)
    for record in records:
        for name, value in record.items():
            if value is not None and name not in columns:
                kinds[name] = _common_type(kinds.get(name), type(_flatten(value)))
    return kinds


def _common_type(current: type | None, new: type) -> type:
    new = int if new is bool else new
    if current in (None, new):
        return new
    return float if {current, new} == {int, float} else str


def _flatten(value: Any) -> Any:
    """Return a value as one cell; nested values become JSON text."""
    if isinstance(value, str):
        return _text(value)
    return value if value is None or isinstance(value, int | float) else json.dumps(value)


def _to_cell(kind: type, value: Any) -> Any:
    """Return a value as a cell of a column's type."""
    cell = _flatten(value)
    return cell if cell is None or (kind is str and isinstance(cell, str)) else kind(cell)


def _text(text: str) -> str:
    """Return a text with escapes for what UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
