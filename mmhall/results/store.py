"""The store of a run: one SQLite file with the run's set-up, its items, and one row per answer.

Rows are committed as they are produced, so that a run that was stopped or killed can continue where
it was; only a power cut may lose the last seconds. A folder belongs to one set-up; opening it with another set-up is
an error that names the difference. Parts of a set-up that are named may grow: strategies are added to a run.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any

from mmhall.errors import RunError
from mmhall.files import why_not_a_file
from mmhall.results.rows import COLUMNS, Row, RowReader, to_columns
from mmhall.text import without_home

__all__ = ["FILE", "Row", "Store", "differences"]

FILE = "run.sqlite"
_VERSION = 2
_LOCK_TIMEOUT = 30.0  # seconds to wait for another process to finish writing
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
_STORE_ITEM = """
insert into items values (?, ?, ?) on conflict (benchmark, item) do update set content = excluded.content
"""
_STORE_ANSWER = """
insert into answers values
    (:benchmark, :item, :strategy, :text, :stopped_by, :new_tokens, :seconds, :batch, :extra, :error)
on conflict (benchmark, item, strategy) do update set
    text = excluded.text, stopped_by = excluded.stopped_by, new_tokens = excluded.new_tokens,
    seconds = excluded.seconds, batch = excluded.batch, extra = excluded.extra, error = excluded.error
where answers.error is not null
"""


class Store:
    """The answers of one run."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `create` or `open` instead."""
        self.path, self._connection = path, connection
        self._file: tuple[int, int] | None = None

    @classmethod
    def create(
        cls,
        folder: Path,
        setup: Mapping[str, Any],
        notes: Mapping[str, str] = MappingProxyType({}),
        growing: Collection[str] = (),
        check_growth: Callable[[Store], None] = lambda store: None,
    ) -> Store:
        """Open a run folder for a set-up; create the folder if needed.

        Args:
            folder: The run folder.
            setup: What must not change between calls, as JSON values.
            notes: Facts that may change between calls, such as the folder of pictures; the latest are stored.
            growing: Keys of lists and mappings of the set-up that may gain entries; a list keeps all it has, and its
                first entry in place.
            check_growth: Called before they do, with the other processes kept from writing; raises an error if they
                must not.

        Raises:
            RunError: The folder holds a run of another set-up, or cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot make the run folder: {error.strerror}") from error
        store, _ = cls.open_checked(folder)
        with store._sqlite_errors("write"), store._connection as connection:
            store._enable_wal()
            connection.execute("begin immediate")
            for table in _SCHEMA.split(";")[:-1]:
                connection.execute(table)
            stored, wanted = store.setup(), json.loads(json.dumps(setup))
            kept = {key: _without_gains(stored.get(key), wanted[key]) for key in growing if key in wanted}
            differing = list(differences(stored, {**wanted, **kept})) if stored else []
            if not differing:
                full_setup = {**wanted, "version": _VERSION}
                grown = {key: _grown(stored.get(key), full_setup.pop(key)) for key in kept}
                if stored and any(stored.get(key) != value for key, value in grown.items()):
                    check_growth(store)
                for way, facts in (("ignore", full_setup), ("replace", grown)):
                    connection.executemany(
                        f"insert or {way} into setup values (?, ?)", [(k, json.dumps(v)) for k, v in facts.items()]
                    )
                connection.executemany("insert or replace into notes values (?, ?)", list(notes.items()))
                return store
        lines = "; ".join(f"{what} was {old}, now {new}" for what, old, new in differing)
        raise RunError(f"{folder}: belongs to another set-up ({lines}); choose another --out or repeat the old options")

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open an existing run folder.

        Raises:
            RunError: The folder holds no run, or an unreadable one.
        """
        try:
            exists = (folder / FILE).is_file()
        except OSError as error:
            raise RunError(f"{folder / FILE}: cannot be read: {error.strerror}") from error
        if not exists:
            raise RunError(f"{folder}: holds no run; give the --out folder of a `mmhall bench` command")
        store, begun = cls.open_checked(folder)
        if not begun:
            raise RunError(f"{store.path}: is empty; give the --out folder of a `mmhall bench` command")
        return store

    @classmethod
    def check(cls, folder: Path) -> None:
        """Check that a run can be written to a folder, without changing the folder.

        Raises:
            RunError: The folder cannot be created or written, or holds a damaged run or one of another version.
        """
        base = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
        reason = why_not_a_file(folder / FILE)
        if reason not in (None, "does not exist"):
            raise RunError(f"{folder}: cannot be a run folder: {FILE} in it {reason}; choose another --out")
        if not base.is_dir():
            raise RunError(f"{folder}: cannot be a run folder: {base} is no folder; choose another --out")
        if not os.access(base, os.W_OK | os.X_OK):
            raise RunError(f"{folder}: cannot be a run folder: {base} cannot be written; choose another --out")
        if reason is None:
            cls.open_checked(folder)[0].close()

    @classmethod
    def open_checked(cls, folder: Path) -> tuple[Store, bool]:
        """Open the file; also return whether it holds a run already. A refused file is left unchanged."""
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
            return cls(path, sqlite3.connect(name, timeout=_LOCK_TIMEOUT, uri=uri))
        except sqlite3.Error as error:
            raise RunError(f"{path}: cannot be opened: {error}") from error

    def _enable_wal(self) -> None:
        """Set WAL mode, in which several processes can write; SQLite does not wait for a lock here, so try again."""
        patient_until = monotonic() + _LOCK_TIMEOUT
        while True:
            try:
                self._connection.execute("pragma journal_mode=wal")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or monotonic() > patient_until:
                    raise
                sleep(0.01)

    def _holds_run(self) -> bool:
        """Tell whether the file holds a run already.

        Raises:
            RunError: The file is damaged, of another program, or of another version.
        """
        with self._sqlite_errors("read"):
            problem = str(self._connection.execute("pragma quick_check(1)").fetchone()[0]).splitlines()[-1]
            tables = {name for (name,) in self._connection.execute("select name from sqlite_master")}
        if problem != "ok":
            raise RunError(
                f"{self.path}: is damaged ({problem}); get an intact copy, or start a new run in another folder"
            )
        if not tables:
            return False
        setup = self.setup() if {"setup", "answers"} <= tables else {}
        if "version" not in setup:
            raise RunError(f"{self.path}: is an SQLite database, but no run of mmhall; choose another folder")
        if setup["version"] != _VERSION:
            raise RunError(
                f"{self.path}: was written by another version of mmhall (format {setup['version']}, this one reads "
                f"{_VERSION}); use that version, or start a new run in another folder"
            )
        return True

    def setup(self) -> dict[str, Any]:
        """Return the set-up of the run."""
        pairs = self.read("select key, value from setup")
        return {key: json.loads(without_home(value)) for key, value in pairs}  # older versions stored the home folder

    def notes(self) -> dict[str, str]:
        """Return the notes."""
        return dict(self.read("select key, value from notes"))

    def add(self, rows: Iterable[Row]) -> None:
        """Commit answers; stored answers stay, stored failures are overwritten.

        Raises:
            RunError: They cannot be written (disk full, read-only); committed answers stay.
        """
        with self._sqlite_errors("write"), self._connection:
            self._connection.executemany(_STORE_ANSWER, map(to_columns, rows))

    def rows(self, benchmark: str) -> Iterator[Row]:
        """Yield the answers and failures of a benchmark."""
        query, reader = f"select {', '.join(COLUMNS)} from answers where benchmark = ? order by rowid", RowReader()
        with self._sqlite_errors("read"):
            yield from map(reader.read, self._connection.execute(query, (benchmark,)))

    def done(self, benchmark: str) -> set[tuple[str, str]]:
        """Return the (item, strategy) pairs with an answer; failures do not count."""
        query = "select item, strategy from answers where benchmark = ? and error is null"
        with self._sqlite_errors("read"):
            return set(self._connection.execute(query, (benchmark,)))

    def count_done(self, benchmark: str) -> int:
        """Return the number of (item, strategy) pairs with an answer."""
        query = "select count(*) from answers where benchmark = ? and error is null"
        return int(self.read(query, (benchmark,))[0][0])

    def done_in(self, benchmark: str, batch: int) -> set[tuple[str, str]]:
        """Return the (item, strategy) pairs of a batch with an answer."""
        query = "select item, strategy from answers where benchmark = ? and batch = ? and error is null"
        return set(self.read(query, (benchmark, batch)))

    def keep_items(self, benchmark: str, items: Iterable[tuple[str, Any]]) -> None:
        """Store the ids and items of a benchmark, in order, as JSON values; later calls overwrite."""
        records = ((benchmark, item, json.dumps(content)) for item, content in items)
        with self._sqlite_errors("write"), self._connection:
            self._connection.executemany(_STORE_ITEM, records)

    def items(self, benchmark: str) -> Iterator[Any]:
        """Yield the items of a benchmark in the stored order; neighbours share the names of their fields."""
        query = "select content from items where benchmark = ? order by rowid"
        with self._sqlite_errors("read"):
            found = self._connection.execute(query, (benchmark,))
            while texts := [text for (text,) in found.fetchmany(1000)]:
                yield from json.loads(f"[{','.join(texts)}]")

    def read(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Return the rows of a query.

        Raises:
            RunError: The store cannot be read.
        """
        with self._sqlite_errors("read"):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for one write transaction; other processes wait meanwhile.

        Raises:
            RunError: The store cannot be written.
        """
        with self._sqlite_errors("write"), self._connection:
            self._connection.execute("begin immediate")
            yield self._connection

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _check_unmoved(self) -> None:
        """Check that the file is still at its path: SQLite would continue to write to a deleted file.

        Raises:
            RunError: The file is missing, or another file is in its place.
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


def _without_gains(old: Any, new: Any) -> Any:
    """Return the part of a new value that the old one has, too: equal to it if it was only extended."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: value for key, value in new.items() if key in old}
    if isinstance(old, list) and isinstance(new, list):
        return old if old[:1] == new[:1] and all(entry in new for entry in old) else new
    return None if old is None else new


def _grown(old: Any, new: Any) -> Any:
    return {**old, **new} if isinstance(old, dict) else new


def differences(old: Any, new: Any, where: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the differences of two set-ups: the key, as "benchmarks.pope.rule", and both values as JSON.

    Keys that only the old set-up has do not count.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in new.items():
            yield from differences(old.get(key), value, f"{where}.{key}" if where else key)
    elif old != new:
        yield where, json.dumps(old), json.dumps(new)
