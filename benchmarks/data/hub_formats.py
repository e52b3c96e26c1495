"""Conversion of hub datasets to the official file format of each benchmark; picture bytes stay unchanged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mmhall.benchmarks.data.reading import Record
from mmhall.benchmarks.pope import SETTINGS
from mmhall.errors import DataError

Converter = Callable[[Sequence[Any], Path], None]

COCO = "annotations.json"
MANIFEST = "questions.jsonl"
_KINDS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}
_ENDINGS = (".jpg", ".jpeg", *_KINDS.values())


class Pictures:
    """Writer of a dataset's pictures; each picture is written once."""

    def __init__(self, folder: Path) -> None:
        """Write to a folder."""
        self._folder = folder
        self._seen: dict[str, bytes] = {}

    def keep(self, row: Record, name: str) -> str:
        """Write the picture of a row.

        Args:
            row: Its field `image` has the bytes or the path of the picture.
            name: File name; a suffix is added if missing.

        Returns:
            The file name, relative to the folder.

        Raises:
            DataError: The row has no picture, the name leaves the folder, or another picture has this name.
        """
        content = _bytes(row)
        parts = PurePosixPath(name).parts
        if not parts or "\0" in name or ".." in parts or PurePosixPath(name).is_absolute():
            raise DataError(f"{row.where}: {name!r} is no file name for a picture")
        name = str(PurePosixPath(name))
        if not name.lower().endswith(_ENDINGS):
            name += next((ending for start, ending in _KINDS.items() if content.startswith(start)), ".jpg")
        digest = hashlib.sha256(content).digest()
        if self._seen.setdefault(name, digest) != digest:
            raise DataError(f"{row.where}: another picture than an earlier row's {name}; the dataset is damaged")
        path = self._folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return name


def pope(splits: Sequence[Any], folder: Path) -> None:
    """Write POPE's question files; a row may have several categories, joined with commas."""
    pictures = Pictures(folder)
    lines: dict[str, list[dict[str, Any]]] = {setting: [] for setting in SETTINGS}
    for row in _rows(splits, ("question_id", "question", "answer", "image_source", "image", "category")):
        line = {
            "question_id": _number(row.text("question_id")),
            "image": pictures.keep(row, row.text("image_source")),
            "text": row.text("question"),
            "label": row.choice("answer", ("yes", "no")),
        }
        for category in row.text("category").split(","):
            setting = Record(row.where, {"category": category}).choice("category", SETTINGS)
            lines[setting].append(line)
    for setting, entries in lines.items():
        if entries:
            _write_lines(folder / f"coco_pope_{setting}.json", entries)


def chair(splits: Sequence[Any], folder: Path) -> None:
    """Write a COCO detection file with the objects of each picture."""
    pictures = Pictures(folder)
    names: dict[str, int] = {}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in _rows(splits, ("question_id", "image", "gt_object")):
        picture = row.text("question_id")
        images.append({"id": _number(picture), "file_name": pictures.keep(row, picture)})
        for name in dict.fromkeys(row.texts("gt_object")):
            category = names.setdefault(name, len(names) + 1)
            annotations.append({"id": len(annotations) + 1, "image_id": _number(picture), "category_id": category})
    _write(
        folder / COCO,
        {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in names.items()],
        },
    )


def amber_captions(splits: Sequence[Any], folder: Path) -> None:
    """Write AMBER's queries for captions with their annotations; its table of words is not in the dataset."""
    pictures = Pictures(folder)
    queries, notes = [], []
    for row in _rows(splits, ("question_id", "image", "truth", "hallu")):
        number = row.text("question_id").removeprefix("AMBER_").removesuffix(".jpg")
        image = pictures.keep(row, f"AMBER_{number}.jpg")
        queries.append({"id": _number(number), "image": image, "query": "Describe this image."})
        objects = {"truth": row.texts("truth"), "hallu": row.texts("hallu")}
        notes.append({"id": _number(number), "type": "generative", **objects})
    _write(folder / "query_all.json", queries)
    _write(folder / "annotations.json", notes)


def amber_questions(splits: Sequence[Any], folder: Path) -> None:
    """Write AMBER's yes/no questions with their annotations; a picture without a file name is named by its content."""
    pictures = Pictures(folder)
    queries, notes = [], []
    for row in _rows(splits, ("id", "image", "query", "type", "truth")):
        number = _number(row.text("id"))
        queries.append({"id": number, "image": pictures.keep(row, _picture_name(row)), "query": row.text("query")})
        notes.append({"id": number, "type": row.text("type"), "truth": row.choice("truth", ("yes", "no"))})
    _write(folder / "query_all.json", queries)
    _write(folder / "annotations.json", notes)


def dash(splits: Sequence[Any], folder: Path) -> None:
    """Write DASH-B's questions; pictures are named by their id."""
    pictures = Pictures(folder)
    columns = ("question_id", "object", "question", "answer")
    _write_lines(
        folder / MANIFEST,
        [
            {**{c: row.text(c) for c in columns}, "image": pictures.keep(row, row.text("img_id"))}
            for row in _rows(splits, (*columns, "img_id", "image"))
        ],
    )


def mme(splits: Sequence[Any], folder: Path) -> None:
    """Write MME's questions as a manifest; the question id is the picture's name."""
    pictures = Pictures(folder)
    columns = ("question_id", "question", "answer", "category")
    _write_lines(
        folder / MANIFEST,
        [
            {**{c: row.text(c) for c in columns}, "image": pictures.keep(row, row.text("question_id"))}
            for row in _rows(splits, (*columns, "image"))
        ],
    )


def hallusion(splits: Sequence[Any], folder: Path) -> None:
    """Write HallusionBench.json; the second split has no pictures."""
    pictures = Pictures(folder)
    columns = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id", "question", "gt_answer")
    entries = []
    for number, split in enumerate(splits):
        for row in _rows([split], (*columns, *(("filename", "image") if number == 0 else ()))):
            record = {c: row.text(c) for c in columns}
            record |= {c: str(row.fields[c]) for c in ("gt_answer_details", "sample_note") if row.fields.get(c)}
            entries.append({**record, "filename": pictures.keep(row, row.text("filename")) if number == 0 else None})
    _write(folder / "HallusionBench.json", entries)


def _rows(splits: Sequence[Any], columns: Sequence[str]) -> Iterator[Record]:
    """Yield the rows of splits, with undecoded pictures."""
    from datasets import Image

    for split in splits:
        missing = [name for name in columns if name not in split.column_names]
        if missing:
            have = ", ".join(split.column_names)
            raise DataError(f"the dataset has no column {missing[0]!r}, it has {have}; it is not what was expected")
        if isinstance(split.features.get("image"), Image):
            split = split.cast_column("image", Image(decode=False))
        for number, row in enumerate(split, 1):
            yield Record(f"row {number} of the dataset", row)


def _bytes(row: Record) -> bytes:
    image = row.fields.get("image")
    content = image.get("bytes") if isinstance(image, Mapping) else None
    if isinstance(content, bytes) and content:
        return content
    path = image.get("path") if isinstance(image, Mapping) else None
    try:
        return Path(path or "").read_bytes()
    except OSError as error:
        raise DataError(f"{row.where}: has no picture") from error


def _picture_name(row: Record) -> str:
    """Return the file name of a row's picture, else a name made of its SHA-256 digest."""
    image = row.fields.get("image")
    name = PurePosixPath(str((image.get("path") if isinstance(image, Mapping) else None) or "")).name
    return name or hashlib.sha256(_bytes(row)).hexdigest()[:16]


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() and str(int(text)) == text else text


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def _write_lines(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in entries), encoding="utf-8")
