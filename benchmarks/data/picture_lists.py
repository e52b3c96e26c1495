"""Readers of picture lists: CSV and JSON files of pictures and their objects, written by hand or exported.

CSV      Either a row for each picture, `file,objects` with names separated by ";", or a row for each object,
         `file,category` and if known `visibility`; a row without a category is a picture without objects.
         The column may also be named `image` or `file_name`; tabs or semicolons may replace the commas.
JSON     An object of picture to list of names, or an object with such a field `objects`. A picture is given
         by its file name, with or without suffix, or by the number at the end of its file name: "42" is
         COCO_val2014_000000000042.jpg.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmhall import files
from mmhall.errors import DataError

_SEPARATORS = ",;|\t"
_HOW = {True: 'separate the names of a picture by ";"', False: "give each object a row of its own"}
WHAT = 'a CSV file with the columns "file,objects" (names separated by ";") or "file,category" (a row for each object)'


def read_csv(path: Path) -> dict[str, dict[str, str]]:
    """Read a picture list: file name, as written, to category to visibility ("" if unknown).

    Raises:
        DataError: The file cannot be read, lacks a column, or lists a picture twice.
    """
    try:
        with io.StringIO(files.read_text(path), newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = csv.DictReader(file, strict=True, skipinitialspace=True, delimiter=files.csv_delimiter(first))
            columns = {_column(name): name for name in rows.fieldnames or () if name is not None}
            if "file" not in columns or not {"objects", "category"} & set(columns):
                columns_found = ",".join(rows.fieldnames or ()) or "nothing"
                raise DataError(f"{path}: its first line has {columns_found!r}; give {WHAT}")
            pictures: dict[str, dict[str, str]] = {}
            for row in rows:
                _refuse_extra_cells(row, f"{path}:{rows.line_num}")
                _add_row(
                    pictures, {name: row.get(column) for name, column in columns.items()}, f"{path}:{rows.line_num}"
                )
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give {WHAT}") from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}: is no CSV file ({error}); give {WHAT}") from error
    return pictures


def _refuse_extra_cells(row: Mapping[Any, Any], where: str) -> None:
    """Refuse a row with more cells than the header line."""
    more = [cell for cell in row.get(None) or () if cell.strip()]
    if more:
        raise DataError(
            f"{where}: has {len(more)} more cells than the first line, such as {more[0]!r}; "
            'separate the names of a picture by ";", in one cell'
        )


def add_object(objects: dict[str, str], name: str, visibility: str) -> None:
    """Add an object; its visibility is "clear" if any of its instances is clear."""
    if name not in objects or objects[name] != "clear":
        objects[name] = visibility


def _add_row(pictures: dict[str, dict[str, str]], row: Mapping[str, str | None], where: str) -> None:
    cells = {name: (value or "").strip() for name, value in row.items()}
    if not any(cells.values()):
        return
    if not cells["file"]:
        raise DataError(f"{where}: names no file")
    if "objects" in cells and cells["file"] in pictures:
        raise DataError(f"{where}: lists {cells['file']!r} a second time; give each picture one row")
    objects = pictures.setdefault(cells["file"], {})
    for name in cells["objects"].split(";") if "objects" in cells else [cells["category"]]:
        mark = next((mark for mark in _SEPARATORS if mark in name), None)
        if mark is not None:
            raise DataError(f"{where}: {name.strip()!r} holds {mark!r}; {_HOW['objects' in cells]}")
        if name.strip():
            add_object(objects, name.strip(), cells.get("visibility", ""))


def _column(name: str) -> str:
    plain = name.strip().lower()
    return "file" if plain in ("image", "file_name") else plain


def read_object_lists(path: Path, data: Any) -> dict[str, dict[str, str]] | None:
    """Read lists of objects: picture to category to visibility, always "" here.

    Args:
        path: Source of the data, for error messages.
        data: Content of a JSON file.

    Returns:
        None if the data is of another kind.

    Raises:
        DataError: The objects of a picture are no list of names.
    """
    if not isinstance(data, dict) or not data or {"images", "annotations", "categories"} & set(data):
        return None
    listed = data["objects"] if isinstance(data.get("objects"), dict) else data
    if not any(isinstance(names, list) for names in listed.values()):
        return None
    for picture, names in listed.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path}: {picture!r} has {names!r}; expected a list of object names")
    return {picture: dict.fromkeys(names, "") for picture, names in listed.items()}


def find_files(pictures: Iterable[str], images: Path) -> dict[str, Path]:
    """Find the files of pictures given by file name, with or without suffix, or by the number at its end.

    Raises:
        DataError: Several files match one picture.
    """
    names = {file.name for file in images.iterdir()} if images.is_dir() else set[str]()
    by_key: dict[str, list[str]] = {}
    for name in sorted(names):
        stem = Path(name).stem
        number = re.search(r"[0-9]+$", stem)
        for key in {stem, number.group().lstrip("0") or "0"} if number else {stem}:
            by_key.setdefault(key, []).append(name)
    paths = {}
    for picture in pictures:
        files = [picture] if picture in names else by_key.get(picture, [picture])
        if len(files) > 1:
            raise DataError(f"{images}: {picture!r} may be {files[0]} or {files[1]}; give the file's name")
        paths[picture] = images / files[0]
    return paths
