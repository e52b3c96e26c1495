"""Rows of the store: one answer each, and their conversion to and from columns of SQLite."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from mmhall.text import without_home


@dataclass(frozen=True, slots=True)
class Row:
    """One answer.

    Attributes:
        benchmark: Name of the benchmark.
        item: Id of the item.
        strategy: Strategy, as written for the run.
        text: Raw text of the answer.
        stopped_by: "eos" or "length".
        new_tokens: Number of generated tokens.
        seconds: Wall time of the batch, divided by its answers.
        batch: Number of the batch; the strategies of one batch run one after the other.
        extra: Measurements of the benchmark beside the text, as JSON values.
        error: Why there is no answer; None: there is an answer.
    """

    benchmark: str
    item: str
    strategy: str
    text: str
    stopped_by: str
    new_tokens: int
    seconds: float
    batch: int
    extra: dict[str, Any] | None = None
    error: str | None = None


_FREE_TEXT = ("text", "error")  # written by models, or with file names: any characters
_COMMON = ("benchmark", "item", "strategy", "stopped_by", "new_tokens", "batch")
_SHORT = 100  # characters of a text that several rows may have in common
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
COLUMNS = tuple(field.name for field in fields(Row))


def to_columns(row: Row) -> dict[str, Any]:
    """Return the column values of a row; an error text is stored without the home folder."""
    columns = {name: getattr(row, name) for name in COLUMNS}
    columns["extra"] = None if row.extra is None else json.dumps(row.extra)
    columns["error"] = None if row.error is None else without_home(row.error)
    return {**columns, **{key: _to_sqlite(columns[key]) for key in _FREE_TEXT}}


class RowReader:
    """Makes rows of column values; rows share what is equal in them, of which a million have little."""

    def __init__(self) -> None:
        """Begin with nothing to share."""
        self._shared: dict[Any, Any] = {}
        self._decoder = json.JSONDecoder(object_hook=self._share_measured)

    def read(self, values: Sequence[Any]) -> Row:
        """Return the row of column values in the order of `COLUMNS`."""
        row, share = dict(zip(COLUMNS, values, strict=True)), self._shared.setdefault
        for name in _COMMON:
            row[name] = share(row[name], row[name])
        for name in _FREE_TEXT:
            text = _from_sqlite(row[name])
            row[name] = share(text, text) if text is None or len(text) <= _SHORT else text
        row["extra"] = row["extra"] and self._decoder.decode(row["extra"])
        return Row(**row)

    def _share_measured(self, measured: dict[str, Any]) -> dict[str, Any]:
        """Return the first equal object of integers, such as the passes that were counted for a batch."""
        if any(type(value) is not int for value in measured.values()):  # True equals 1, and is written otherwise
            return measured
        return self._shared.setdefault(tuple(measured.items()), measured)  # type: ignore[no-any-return]


def _to_sqlite(text: str | None) -> str | bytes | None:
    """Convert a text for SQLite: to bytes if it holds lone surrogates, as file names may."""
    if text is None or not _LONE_SURROGATES.search(text):
        return text
    return text.encode("utf-8", "surrogatepass")


def _from_sqlite(value: str | bytes | None) -> str | None:
    """Convert a value of SQLite back; the inverse of `_to_sqlite`."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value
