"""Readers of AMBER's files: queries, annotations, the table of associated words, similarities of words."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhall.benchmarks.base import Source
from mmhall.benchmarks.data.reading import Record, check_unique, find_pictures, read_json, read_records, read_text
from mmhall.errors import DataError

READS = "AMBER's data folder (query_all.json, annotations.json), or a query file in it"


@dataclass(frozen=True, slots=True)
class Query:
    """One query with its annotation.

    Attributes:
        id: Number of the query.
        image: File name of the picture.
        text: Text of the query.
        annotation: Entry of the query in the annotations.
    """

    id: str
    image: str
    text: str
    annotation: Record

    @property
    def kind(self) -> str:
        """The annotation's type, such as "generative"."""
        return self.annotation.text("type")


def read_queries(source: Source, name: str, *, generative: bool) -> tuple[list[Query], dict[str, Path]]:
    """Read the queries of one kind and find their pictures.

    Args:
        source: Where the data is.
        name: Name of the benchmark, for error messages.
        generative: Whether to read the queries for captions; else the yes/no questions.

    Returns:
        The queries, grouped by picture in the order of picture numbers; and the picture files.

    Raises:
        DataError: A file or picture is missing or malformed, or there are no such queries.
    """
    data = source.data_path(name, READS)
    part = "query_generative.json" if generative else "query_discriminative.json"
    query_file = find_file(data, ("query_all.json", part)) if data.is_dir() else data
    notes = {r.text("id"): r for r in read_records(find_file(data, ("annotations.json",)), "AMBER's annotations")}
    records = read_records(query_file, "a list of AMBER's queries (id, image, query)")
    check_unique(((r.where, r.text("id")) for r in records), "query")
    unknown = next((r for r in records if r.text("id") not in notes), None)
    if unknown is not None:
        raise DataError(f"{unknown.where}: query {unknown.text('id')} is not in annotations.json; both must match")
    queries = [Query(r.text("id"), r.text("image"), r.text("query"), notes[r.text("id")]) for r in records]
    queries = [q for q in queries if (q.kind == "generative") == generative]
    if not queries:
        kind = "queries for captions" if generative else "yes/no questions"
        raise DataError(f"{query_file}: holds no {kind}; {name} needs some")
    queries.sort(key=lambda q: (len(q.image), q.image))
    used = list(dict.fromkeys(q.image for q in queries))[: source.limit]
    roots = (data,) if data.is_dir() else (data.parent, data.parent.parent)
    near = [root / sub for root in roots for sub in ("", "image", "images")]
    pictures = find_pictures(used, (source.images,) if source.images else near, source.pictures)
    return [q for q in queries if q.image in pictures], pictures


def find_file(data: Path, names: Iterable[str]) -> Path:
    """Return the first existing file of several names in AMBER's data folder, given the folder or a file in it.

    Raises:
        DataError: None of the files exists.
    """
    names = tuple(names)
    folders = (data, data / "query") if data.is_dir() else (data.parent, data.parent.parent)
    for name in names:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    raise DataError(f"{folders[0]}: holds no {' or '.join(names)}; give {READS}")


@dataclass(frozen=True, slots=True)
class Words:
    """AMBER's word tables.

    Attributes:
        associations: Object to words that may name it.
        neutral: Words that are never hallucinated.
    """

    associations: Mapping[str, list[str]]
    neutral: list[str]

    @property
    def vocabulary(self) -> list[str]:
        """All objects and associated words, sorted."""
        return sorted({*self.associations, *(word for words in self.associations.values() for word in words)})


def read_words(folder: Path) -> Words:
    """Read relation.json and safe_words.txt.

    Raises:
        DataError: A file is missing or malformed.
    """
    path = find_file(folder, ("relation.json",))
    table = Record(str(path), _object(path, "AMBER's table of associated words"))
    neutral = read_text(find_file(folder, ("safe_words.txt",)), "AMBER's neutral words").split()
    return Words({name: table.texts(name) for name in table.fields}, neutral)


def read_similarities(path: Path) -> dict[tuple[str, str], float]:
    """Read similarities of words: JSON lists [word, word, similarity], or a CSV file with such rows.

    Similarities are symmetric.

    Raises:
        DataError: The file is missing or malformed, or has two values for one pair.
    """
    expected = "similarities: [word, word, number] in JSON, or rows word,word,number in CSV"
    text = read_text(path, expected)
    if text.lstrip().startswith("["):
        rows = read_json(path, expected)
    else:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    similarities: dict[tuple[str, str], float] = {}
    for number, row in enumerate(rows, 1):
        a, b, value = _similarity(row, f"{path}, row {number}")
        if similarities.get((a, b), value) != value:
            raise DataError(
                f"{path}, row {number}: {a!r} and {b!r} have similarity {similarities[a, b]:g} in an earlier row"
            )
        similarities[a, b] = similarities[b, a] = value
    if not similarities:
        raise DataError(f"{path}: is empty; expected {expected}")
    return similarities


def _similarity(row: Any, where: str) -> tuple[str, str, float]:
    try:
        a, b, value = row
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or not isinstance(a, str) or not isinstance(b, str):
        raise DataError(f"{where}: must be word, word, number, got {json.dumps(row)[:80]}")
    return a, b, number


def _object(path: Path, expected: str) -> dict[str, Any]:
    data = read_json(path, expected)
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path}: is no JSON object with entries; expected {expected}")
    return data
