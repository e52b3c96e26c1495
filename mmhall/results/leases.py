"""Leases: who works on which batch of a run, so that several processes share one without doing anything twice.

A lease is held by a process as long as it lives. Whether it does is asked of the system where it runs on this
machine; elsewhere it must renew its lease, and loses it after ten minutes of silence.

A process notes which items it is about to ask. One that dies meanwhile leaves a strike on each of them. A batch with
strikes is leased last, and asked in ever smaller pieces: an item that kills whoever asks it is soon alone, and given
up after three strikes there.
"""

from __future__ import annotations

import os
import socket
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
create table if not exists strikes (
    benchmark text not null, batch integer not null, item text not null,
    together integer not null default 0, alone integer not null default 0, asked integer not null default 0,
    primary key (benchmark, item)
);
"""
_OPEN = """
select batch, worker, renewed from leases where benchmark = ? and finished = 0
order by (select coalesce(max(together + alone), 0) from strikes
          where strikes.benchmark = leases.benchmark and strikes.batch = leases.batch), batch
"""
_ASK = """
insert into strikes (benchmark, batch, item, asked) values (?, ?, ?, ?)
on conflict (benchmark, item) do update set asked = excluded.asked
"""
_ANSWERED = "update strikes set asked = 0 where benchmark = ? and batch = ?"
_STRUCK = """
update strikes set together = together + (asked > 1), alone = alone + (asked = 1), asked = 0
where benchmark = ? and batch = ? and asked > 0
"""
_FAILED = "select distinct batch from answers where benchmark = ? and error is not null"


class Leases:
    """The batches of one benchmark of a run."""

    def __init__(self, store: Store, benchmark: str, count: int) -> None:
        """Open them; batches in which an item failed are to be done again, unless somebody is at work already.

        Args:
            store: Of the run.
            benchmark: Its name.
            count: How many batches there are.

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
            left = connection.execute(_OPEN, (benchmark,))
            if not any(self._is_worked_on(worker, renewed) for _, worker, renewed in left):
                again = f"update leases set finished = 0, worker = null where benchmark = ? and batch in ({_FAILED})"
                connection.execute(again, (benchmark, benchmark))

    def claim(self) -> int | None:
        """Lease the first batch that nobody works on; None: there is none."""
        with self._store.writing() as connection:
            left: list[tuple[int, str | None, float]] = connection.execute(_OPEN, (self._benchmark,)).fetchall()
            for batch, worker, renewed in left:
                if batch not in self._held and self._is_free(worker, renewed):
                    connection.execute(_STRUCK, (self._benchmark, batch))
                    connection.execute(
                        "update leases set worker = ?, renewed = ? where benchmark = ? and batch = ?",
                        (self.worker, time.time(), self._benchmark, batch),
                    )
                    self._held.add(batch)
                    return batch
        return None

    def pieces(self, batch: int, items: Sequence[str]) -> list[list[str]]:
        """Split a batch into what is asked together: all of it; after a strike each half; then each item alone.

        Those with the fewest strikes come first; items that are given up are left out.

        Args:
            batch: Its number.
            items: Ids of those that are left to ask, in order.
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
        """Note that these items of a batch are being asked together, until they are answered or an error is raised."""
        with self._store.writing() as connection:
            connection.executemany(_ASK, [(self._benchmark, batch, item, len(items)) for item in items])
        try:
            yield
        finally:
            with self._store.writing() as connection:
                connection.execute(_ANSWERED, (self._benchmark, batch))

    def strike(self, batch: int, items: Sequence[str]) -> None:
        """Note that another process, which this one had ask these items of a batch together, has died of it."""
        with self._store.writing() as connection:
            connection.executemany(_ASK, [(self._benchmark, batch, item, len(items)) for item in items])
            connection.execute(_STRUCK, (self._benchmark, batch))

    def drop(self, batch: int) -> None:
        """Give a batch back undone."""
        with self._store.writing() as connection:
            release = "update leases set worker = null where benchmark = ? and batch = ?"
            connection.execute(release, (self._benchmark, batch))
        self._held.discard(batch)

    def renew(self) -> None:
        """Say that this process still works on what it holds."""
        with self._store.writing() as connection:
            renewal = "update leases set renewed = ? where benchmark = ? and worker = ? and finished = 0"
            connection.execute(renewal, (time.time(), self._benchmark, self.worker))

    def finish(self, batch: int) -> None:
        """Say that a batch is done."""
        with self._store.writing() as connection:
            connection.execute(
                "update leases set finished = 1 where benchmark = ? and batch = ?", (self._benchmark, batch)
            )
        self._held.discard(batch)

    def is_finished(self) -> bool:
        """Whether every batch is done."""
        return not self._store.read(f"{_OPEN} limit 1", (self._benchmark,))

    def has_free_batch(self) -> bool:
        """Whether some batch is left that nobody works on."""
        left = self._store.read(_OPEN, (self._benchmark,))
        return any(batch not in self._held and self._is_free(worker, renewed) for batch, worker, renewed in left)

    def _is_worked_on(self, worker: str | None, renewed: float) -> bool:
        return worker not in (None, self.worker) and holds_lease(str(worker), renewed)

    def _is_free(self, worker: str | None, renewed: float) -> bool:
        return worker in (None, self.worker) or not holds_lease(str(worker), renewed)


def process_name() -> str:
    """Name this process: machine, number, and when it was started, as numbers come again."""
    return f"{socket.gethostname()}/{os.getpid()}/{processes.start_time(os.getpid())}"


def holds_lease(worker: str, renewed: float) -> bool:
    """Whether a process still holds its lease."""
    host, number, started = worker.rsplit("/", 2)
    if host != socket.gethostname():
        return time.time() - renewed < SILENCE
    if Path("/proc/self").exists():
        return processes.start_time(int(number)) == started != ""
    return processes.is_alive(int(number))
