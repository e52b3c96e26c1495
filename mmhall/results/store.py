"""A run folder: one SQLite file with the run's set-up, its items, and one row per answer.

Rows are committed as they are produced, so that a run that was stopped, however hard, goes on where
it was; only a power cut may cost the last seconds. A folder belongs to one set-up; opening it with another one is
refused, naming the difference.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any

from mmhall.errors import RunError
from mmhall.files import no_file
from mmhall.text import without_home

FILE = "run.sqlite"
_VERSION = 2
_PATIENCE = 30.0  # seconds to wait for another process to finish writing
_SCHEMA = """
create table if not exists setup (key text primary key, value text not null);
create table if not exists notes (key text primary key, value text not null);
create table if not exists items (
    benchmark text not null, item text not null, content text not null,
    primary key (benchmark, item)
);
create table if not exists answers (
    benchmark text not null, item text not null, strategy text not null,
    text text not null, stopped_by text not null, new_tokens integer not null,
    seconds real not null, batch integer not null, extra text, error text,
    primary key (benchmark, item, strategy)
);
create index if not exists answers_by_batch on answers (benchmark, batch);
"""
_KEEP = """
insert into items values (?, ?, ?) on conflict (benchmark, item) do update set content = excluded.content
"""
_ADD = """
insert into answers values
    (:benchmark, :item, :strategy, :text, :stopped_by, :new_tokens, :seconds, :batch, :extra, :error)
on conflict (benchmark, item, strategy) do update set
    text = excluded.text, stopped_by = excluded.stopped_by, new_tokens = excluded.new_tokens,
    seconds = excluded.seconds, batch = excluded.batch, extra = excluded.extra, error = excluded.error
where answers.error is not null
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer.

    Attributes:
        benchmark: Its benchmark.
        item: The item's id.
        strategy: The strategy, as written for the run.
        text: What the model said, untouched.
        stopped_by: "eos" or "length".
        new_tokens: Tokens written.
        seconds: Wall time, its share of the batch.
        batch: Number of the batch it was decoded in; strategies of one batch ran in turn.
        extra: What the benchmark keeps beside the text, as JSON writes it.
        error: Why there is no answer; None: there is one.
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


_FREE = ("text", "error")  # what models and file names may say
_HALVES = re.compile("[\ud800-\udfff]")
_COLUMNS = tuple(field.name for field in fields(Row))


class Store:
    """The answers of one run."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `create` or `open` instead."""
        self.path, self._connection = path, connection
        self._file: tuple[int, int] | None = None

    @classmethod
    def create(cls, folder: Path, setup: Mapping[str, Any], notes: Mapping[str, str] = MappingProxyType({})) -> Store:
        """Open a run folder for a set-up, making it if need be.

        Args:
            folder: The run folder.
            setup: What must stay the same; anything JSON can write.
            notes: Facts that may change from call to call, such as where pictures lie; the latest win.

        Raises:
            RunError: The folder holds a run of another set-up, or cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot make the run folder: {error.strerror}") from error
        store, _ = cls._open_checked(folder)
        with store._sqlite_errors("write"), store._connection as connection:
            store._enable_wal()
            connection.execute("begin immediate")
            for table in _SCHEMA.split(";")[:-1]:
                connection.execute(table)
            stored = store.setup()
            differing = list(differences(stored, json.loads(json.dumps(setup)))) if stored else []
            if not differing:
                full_setup = {**setup, "version": _VERSION}
                connection.executemany(
                    "insert or ignore into setup values (?, ?)", [(k, json.dumps(v)) for k, v in full_setup.items()]
                )
                connection.executemany("insert or replace into notes values (?, ?)", list(notes.items()))
                return store
        lines = "; ".join(f"{what} was {old}, now {new}" for what, old, new in differing)
        raise RunError(f"{folder}: belongs to another set-up ({lines}); choose another --out or repeat the old options")

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open a run folder to read it.

        Raises:
            RunError: The folder holds no run, or one that cannot be read.
        """
        try:
            exists = (folder / FILE).is_file()
        except OSError as error:
            raise RunError(f"{folder / FILE}: cannot be read: {error.strerror}") from error
        if not exists:
            raise RunError(f"{folder}: holds no run; give the --out folder of a `mmhall bench` command")
        store, begun = cls._open_checked(folder)
        if not begun:
            raise RunError(f"{store.path}: is empty; give the --out folder of a `mmhall bench` command")
        return store

    @classmethod
    def check(cls, folder: Path) -> None:
        """Refuse a folder that no run can be written to, and leave it as it is.

        Raises:
            RunError: It cannot be made or written, or holds a run that is damaged or of another version.
        """
        base = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
        reason = no_file(folder / FILE)
        if reason not in (None, "does not exist"):
            raise RunError(f"{folder}: cannot be a run folder: {FILE} in it {reason}; choose another --out")
        if not base.is_dir():
            raise RunError(f"{folder}: cannot be a run folder: {base} is no folder; choose another --out")
        if not os.access(base, os.W_OK | os.X_OK):
            raise RunError(f"{folder}: cannot be a run folder: {base} cannot be written; choose another --out")
        if reason is None:
            cls._open_checked(folder)[0].close()

    @classmethod
    def _open_checked(cls, folder: Path) -> tuple[Store, bool]:
        """Open the file, and say whether it holds a run already; one that is refused is left as it is."""
        store = cls._connect(folder)
        try:
            begun = store._holds_run()
            store._connection.execute("pragma synchronous=normal")  # in WAL mode only a power cut costs the last rows
            return store, begun
        except RunError:
            store.close()
            raise

    @classmethod
    def _connect(cls, folder: Path) -> Store:
        path = folder / FILE
        log = path.with_name(f"{FILE}-wal")
        logged = log.is_file() and log.stat().st_size > 0
        if logged and path.is_file() and path.stat().st_size == 0:
            raise RunError(f"{path}: is empty, but {log.name} beside it is not; get an intact copy of both")
        name, uri = str(path), False
        if path.is_file() and not os.access(folder, os.W_OK):
            if logged:
                raise RunError(
                    f"{path}: needs {log.name} read into it, but cannot be written; copy the folder elsewhere"
                )
            name, uri = f"{path.resolve().as_uri()}?immutable=1", True
        try:
            return cls(path, sqlite3.connect(name, timeout=_PATIENCE, uri=uri))
        except sqlite3.Error as error:
            raise RunError(f"{path}: cannot be opened: {error}") from error

    def _enable_wal(self) -> None:
        """Let several processes write; changing the mode is the one thing for which SQLite does not wait by itself."""
        patient_until = monotonic() + _PATIENCE
        while True:
            try:
                self._connection.execute("pragma journal_mode=wal")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or monotonic() > patient_until:
                    raise
                sleep(0.01)

    def _holds_run(self) -> bool:
        """Return whether this file holds a run already; False: it is new.

        Raises:
            RunError: It is damaged, somebody else's, or of another version.
        """
        with self._sqlite_errors("read"):
            problem = str(self._connection.execute("pragma quick_check(1)").fetchone()[0]).splitlines()[-1]
            tables = {name for (name,) in self._connection.execute("select name from sqlite_master")}
        if problem != "ok":
            raise RunError(f"{self.path}: is damaged ({problem}); get an intact copy, or start anew in another folder")
        if not tables:
            return False
        setup = self.setup() if {"setup", "answers"} <= tables else {}
        if "version" not in setup:
            raise RunError(f"{self.path}: is an SQLite database, but no run of mmhall; choose another folder")
        if setup["version"] != _VERSION:
            raise RunError(
                f"{self.path}: was written by another version of mmhall (format {setup['version']}, this one reads "
                f"{_VERSION}); use that version, or start anew in another folder"
            )
        return True

    def setup(self) -> dict[str, Any]:
        """Return the set-up the run was started with."""
        with self._sqlite_errors("read"):
            pairs = self._connection.execute("select key, value from setup")
            return {key: json.loads(without_home(value)) for key, value in pairs}  # earlier versions named the folder

    def notes(self) -> dict[str, str]:
        """Return what was noted."""
        with self._sqlite_errors("read"):
            return dict(self._connection.execute("select key, value from notes"))

    def add(self, rows: Iterable[Row]) -> None:
        """Commit answers; one that is already there is left as it was, a failure gives way.

        Raises:
            RunError: They cannot be written (disk full, read-only); everything committed stays.
        """
        with self._sqlite_errors("write"), self._connection:
            self._connection.executemany(_ADD, map(_to_columns, rows))

    def rows(self, benchmark: str) -> Iterator[Row]:
        """Yield a benchmark's answers and failures."""
        with self._sqlite_errors("read"):
            for values in self._connection.execute(
                f"select {', '.join(_COLUMNS)} from answers where benchmark = ? order by rowid", (benchmark,)
            ):
                row = dict(zip(_COLUMNS, values, strict=True))
                texts = {key: _from_sqlite(row[key]) for key in _FREE}
                yield Row(**{**row, **texts, "extra": row["extra"] and json.loads(row["extra"])})

    def done(self, benchmark: str) -> set[tuple[str, str]]:
        """Return the (item, strategy) pairs that are answered; failures are not."""
        query = "select item, strategy from answers where benchmark = ? and error is null"
        with self._sqlite_errors("read"):
            return set(self._connection.execute(query, (benchmark,)))

    def done_in(self, benchmark: str, batch: int) -> set[tuple[str, str]]:
        """Return the (item, strategy) pairs of a batch that are answered."""
        query = "select item, strategy from answers where benchmark = ? and batch = ? and error is null"
        return set(self.read(query, (benchmark, batch)))

    def keep_items(self, benchmark: str, items: Mapping[str, Any]) -> None:
        """Keep a benchmark's items, by id, in order; anything JSON can write. The latest call wins."""
        records = [(benchmark, item, json.dumps(content)) for item, content in items.items()]
        with self._sqlite_errors("write"), self._connection:
            self._connection.executemany(_KEEP, records)

    def items(self, benchmark: str) -> dict[str, Any]:
        """Return a benchmark's items by id, in the order they were kept."""
        query = "select item, content from items where benchmark = ? order by rowid"
        with self._sqlite_errors("read"):
            return {item: json.loads(content) for item, content in self._connection.execute(query, (benchmark,))}

    def read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query.

        Raises:
            RunError: They cannot be read.
        """
        with self._sqlite_errors("read"):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write several things at once, or none; no other process writes meanwhile.

        Raises:
            RunError: They cannot be written.
        """
        with self._sqlite_errors("write"), self._connection:
            self._connection.execute("begin immediate")
            yield self._connection

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _check_unmoved(self) -> None:
        """Refuse to go on with a file that was deleted: SQLite would write on where nobody finds it.

        Raises:
            RunError: It is not there any more, or another one is.
        """
        try:
            status = self.path.stat()
        except OSError:
            status = None
        file = None if status is None else (status.st_dev, status.st_ino)
        if self._file is None:
            self._file = file
        elif file != self._file:
            raise RunError(f"{self.path}: was deleted or moved while the run was open; its answers are gone from here")

    @contextmanager
    def _sqlite_errors(self, action: str) -> Iterator[None]:
        self._check_unmoved()
        try:
            yield
        except sqlite3.Error as error:
            intact = "; what was committed before is intact" if action == "write" else ""
            raise RunError(f"{self.path}: cannot {action} the run: {error}{intact}") from error


def _to_columns(row: Row) -> dict[str, Any]:
    """Return a row as it is written; an error may name the user's files."""
    columns = {**asdict(row), "extra": None if row.extra is None else json.dumps(row.extra)}
    columns["error"] = None if row.error is None else without_home(row.error)
    return {**columns, **{key: _to_sqlite(columns[key]) for key in _FREE}}


def _to_sqlite(text: str | None) -> str | bytes | None:
    """Return a text as SQLite can hold it: as bytes, where it has half surrogate pairs, as file names may have."""
    if text is None or not _HALVES.search(text):
        return text
    return text.encode("utf-8", "surrogatepass")


def _from_sqlite(value: str | bytes | None) -> str | None:
    """Return the text that `_to_sqlite` was given."""
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield what differs between two set-ups: where, as "benchmarks.pope.rule", and both values as JSON.

    What only the old one has does not count: it may hold more than anyone asks for.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in new.items():
            yield from differences(old.get(key), value, f"{where}.{key}" if where else key)
    elif old != new:
        yield where, json.dumps(old), json.dumps(new)
