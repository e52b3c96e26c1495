"""Faults 26 to 34: runs and store."""

from __future__ import annotations

from mmhall.errors import RunError
from mmhall.results.store import Store
from tests.faults.support import refuses


def foreign_store(folder):
    (folder / "run.sqlite").write_bytes(b"no database" * 100)
    refuses(RunError, "run.sqlite", Store.open, folder)


def other_setup(folder):
    Store.create(folder, {"model": "a"}).close()
    refuses(RunError, 'model was "a", now "b"', Store.create, folder, {"model": "b"})


ROWS = [
    (29, "a file that is no run", foreign_store),
    (30, "a run folder of another set-up", other_setup),
]
