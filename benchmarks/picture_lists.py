"""Pictures and their objects as a table: CSV files that people write by hand or export.

Either a row for each picture, `file,objects` with names separated by ";", or a row for each object,
`file,category` and if known `visibility`; a row without a category tells of a picture that shows nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from mmhall.errors import DataError

WHAT = 'a CSV file with the columns "file,objects" (names separated by ";") or "file,category" (a row for each object)'


def read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Read a picture list: file name, as written, to category to visibility ("" unless told).

    Raises:
        DataError: The file cannot be read, lacks a column, or lists a picture twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True, skipinitialspace=True)
            columns = {name.strip().lower(): name for name in rows.fieldnames or () if name is not None}
            if "file" not in columns or not {"objects", "category"} & set(columns):
                told = ",".join(rows.fieldnames or ()) or "nothing"
                raise DataError(f"{path}: its first line has {told!r}; give {WHAT}")
            found: dict[str, dict[str, str]] = {}
            for row in rows:
                _add(found, {name: row.get(column) for name, column in columns.items()}, f"{path}:{rows.line_num}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give {WHAT}") from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}: is no CSV file ({error}); give {WHAT}") from error
    return found


def seen(objects: dict[str, str], name: str, visibility: str) -> None:
    """Add an object; one seen clearly once is clear."""
    if name not in objects or objects[name] != "clear":
        objects[name] = visibility


def _add(found: dict[str, dict[str, str]], row: Mapping[str, str | None], where: str) -> None:
    cells = {name: (value or "").strip() for name, value in row.items()}
    if not any(cells.values()):
        return
    if not cells["file"]:
        raise DataError(f"{where}: names no file")
    if "objects" in cells and cells["file"] in found:
        raise DataError(f"{where}: lists {cells['file']!r} a second time; give each picture one row")
    objects = found.setdefault(cells["file"], {})
    for name in cells["objects"].split(";") if "objects" in cells else [cells["category"]]:
        if name.strip():
            seen(objects, name.strip(), cells.get("visibility", ""))
