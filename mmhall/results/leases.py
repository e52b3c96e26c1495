"""Leases of batches: several processes share one run, and each batch is answered by one of them.

A process holds a lease while it is alive. On the same machine the operating system tells whether it is alive;
on another machine the process must renew its lease, and loses it ten minutes after the last renewal.

A process notes which items it is about to ask. If it dies meanwhile, each of these items gets a strike. A batch with
strikes is leased last, and asked in ever smaller pieces: an item that kills its process is soon asked alone, and
given up after three strikes there.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmhall.results import processes
from mmhall.results.store import Store

SILENCE = 600.0  # seconds after which a lease of another machine is free again
STRIKES = 3  # of an item asked alone, before it is given up
_SCHEMA = """
create table if not exists leases (
    benchmark text not null, batch integer not null, worker text, renewed real, finished integer not null default 0,
    primary key (benchmark, batch)
);
create index if not exists open_leases on leases (benchmark, batch) where finished = 0;
create table if not exists strikes (
    benchmark text not null, batch integer not null, item text not null,
    together integer not null default 0, alone integer not null default 0, asked integer not null default 0,
    primary key (benchmark, item)
);
"""
_UNSTRUCK = """
select batch, worker, renewed from leases where benchmark = :benchmark and finished = 0
and batch not in (select batch from strikes where benchmark = :benchmark and together + alone > 0) order by batch
"""
_SEEN = 64  # open batches among which the next one is looked for
_BY_STRIKES = """
select leases.batch, worker, renewed from leases join strikes using (benchmark, batch)
where benchmark = :benchmark and finished = 0
group by leases.batch having max(together + alone) > 0 order by max(together + alone), leases.batch
"""
_HELD = "select distinct worker, renewed from leases where benchmark = ? and finished = 0 and worker is not null"
_ASK = """
insert into strikes (benchmark, batch, item, asked) values (?, ?, ?, ?)
on conflict (benchmark, item) do update set asked = excluded.asked
"""
_ANSWERED = (  # items without a strike are forgotten, so that the table stays small
    "delete from strikes where benchmark = ? and batch = ? and together = 0 and alone = 0",
    "update strikes set asked = 0 where benchmark = ? and batch = ?",
)
_STRUCK = """
update strikes set together = together + (asked > 1), alone = alone + (asked = 1), asked = 0
where benchmark = ? and batch = ? and asked > 0
"""
_LACKING = """
select batch from answers where benchmark = ? group by batch
having count(error) > 0 or count(distinct strategy) < ?
"""


class Leases:
    """The batches of one benchmark of a run."""

    def __init__(self, store: Store, benchmark: str, count: int) -> None:
        """Open the leases; unless another process is working, batches are reopened that lack an answer.

        An answer is lacking if an item failed, or if a strategy was added to the run since.

        Args:
            store: Store of the run.
            benchmark: Name of the benchmark.
            count: Number of batches.

        Raises:
            RunError: The store cannot be written.
        """
        self._store, self._benchmark, self.worker = store, benchmark, process_name()
        self._held: set[int] = set()
        with store.writing() as connection:
            for table in _SCHEMA.split(";")[:-1]:
                connection.execute(table)
            connection.executemany(
                "insert or ignore into leases (benchmark, batch) values (?, ?)", [(benchmark, n) for n in range(count)]
            )
            held = connection.execute(_HELD, (benchmark,))
            if not any(_is_of_another(worker, renewed) for worker, renewed in held):
                again = f"update leases set finished = 0, worker = null where benchmark = ? and batch in ({_LACKING})"
                strategies = len(store.setup().get("strategies", ()))
                connection.execute(again, (benchmark, benchmark, strategies))

    def claim(self) -> int | None:
        """Lease the first free batch and return its number; None: no batch is free."""
        with self._store.writing() as connection:
            batch = self._first_free(connection)
            if batch is None:
                return None
            connection.execute(_STRUCK, (self._benchmark, batch))
            connection.execute(
                "update leases set worker = ?, renewed = ? where benchmark = ? and batch = ?",
                (self.worker, time.time(), self._benchmark, batch),
            )
            self._held.add(batch)
            return batch

    def upcoming(self) -> int | None:
        """Return the batch that this process will probably lease next, without strikes; None: not known.

        Nothing is leased. Each other process that holds a lease is taken to lease a batch before.
        """
        others, free = set[str](), list[int]()
        for batch, worker, renewed in self._store.read(f"{_UNSTRUCK} limit {_SEEN}", {"benchmark": self._benchmark}):
            if not self._is_free(worker, renewed):
                others.add(worker)
            elif batch not in self._held:
                free.append(int(batch))
        return free[len(others)] if len(free) > len(others) else None

    def _first_free(self, connection: sqlite3.Connection) -> int | None:
        """Return the first free batch, those with strikes last; of a million batches few are read."""
        for query in (_UNSTRUCK, _BY_STRIKES):
            for batch, worker, renewed in connection.execute(query, {"benchmark": self._benchmark}):
                if batch not in self._held and self._is_free(worker, renewed):
                    return int(batch)
        return None

    def pieces(self, batch: int, items: Sequence[str]) -> list[list[str]]:
        """Split a batch into pieces that are asked together: all items; after a strike each half; then each item alone.

        Pieces with the fewest strikes come first; given-up items are left out.

        Args:
            batch: Number of the batch.
            items: Ids of the items left to ask, in order.
        """
        read = "select item, together, alone from strikes where benchmark = ? and batch = ?"
        struck = {item: (together, alone) for item, together, alone in self._store.read(read, (self._benchmark, batch))}
        half = (len(items) + 1) // 2
        pieces: dict[tuple[int, int, int], list[str]] = {}
        for place, item in enumerate(items):
            together, alone = struck.get(item, (0, 0))
            part = place if alone or together > 1 else place // half if together else 0
            pieces.setdefault((alone, min(together, 2), part), []).append(item)
        return [pieces[key] for key in sorted(pieces) if key[0] < STRIKES]

    @contextmanager
    def note_asked(self, batch: int, items: Sequence[str]) -> Iterator[None]:
        """Note that items of a batch are being asked together, until the context ends."""
        with self._store.writing() as connection:
            connection.executemany(_ASK, [(self._benchmark, batch, item, len(items)) for item in items])
        try:
            yield
        finally:
            with self._store.writing() as connection:
                for statement in _ANSWERED:
                    connection.execute(statement, (self._benchmark, batch))

    def strike(self, batch: int, items: Sequence[str]) -> None:
        """Give a strike to items of a batch: another process died while this one had it ask them together."""
        with self._store.writing() as connection:
            connection.executemany(_ASK, [(self._benchmark, batch, item, len(items)) for item in items])
            connection.execute(_STRUCK, (self._benchmark, batch))

    def drop(self, batch: int) -> None:
        """Release a batch unanswered."""
        with self._store.writing() as connection:
            release = "update leases set worker = null where benchmark = ? and batch = ?"
            connection.execute(release, (self._benchmark, batch))
        self._held.discard(batch)

    def renew(self) -> None:
        """Renew the leases of this process."""
        with self._store.writing() as connection:
            renewal = "update leases set renewed = ? where benchmark = ? and worker = ? and finished = 0"
            connection.execute(renewal, (time.time(), self._benchmark, self.worker))

    def finish(self, batch: int) -> None:
        """Mark a batch as finished."""
        with self._store.writing() as connection:
            connection.execute(
                "update leases set finished = 1 where benchmark = ? and batch = ?", (self._benchmark, batch)
            )
        self._held.discard(batch)

    def is_finished(self) -> bool:
        """Tell whether every batch is finished."""
        left = "select 1 from leases where benchmark = ? and finished = 0 limit 1"
        return not self._store.read(left, (self._benchmark,))

    def has_free_batch(self) -> bool:
        """Tell whether a free batch is left."""
        with self._store.writing() as connection:
            return self._first_free(connection) is not None

    def _is_free(self, worker: str | None, renewed: float) -> bool:
        return worker in (None, self.worker) or not holds_lease(str(worker), renewed)


def is_worked_on(store: Store) -> bool:
    """Tell whether another process answers items of a run.

    Raises:
        RunError: The store cannot be read.
    """
    if not store.read("select name from sqlite_master where name = 'leases'"):
        return False
    held = store.read("select worker, renewed from leases where finished = 0")
    return any(_is_of_another(worker, renewed) for worker, renewed in held)


def _is_of_another(worker: str | None, renewed: float) -> bool:
    return worker not in (None, process_name()) and holds_lease(str(worker), renewed)


def process_name() -> str:
    """Name this process by machine, process id and start time, as process ids are reused."""
    return f"{socket.gethostname()}/{os.getpid()}/{processes.start_time(os.getpid())}"


def holds_lease(worker: str, renewed: float) -> bool:
    """Tell whether a process still holds its lease."""
    host, number, started = worker.rsplit("/", 2)
    if host != socket.gethostname():
        return time.time() - renewed < SILENCE
    if Path("/proc/self").exists():
        return processes.start_time(int(number)) == started != ""
    return processes.is_alive(int(number))
