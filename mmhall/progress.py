"""Progress of long work on stderr: a bar in a terminal and in a notebook, else a line after every tenth."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MANY = 10_000  # steps of quick work that are worth a progress bar


@contextmanager
def progress(what: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr; yields a function that advances it by a count.

    If stderr is not a terminal, print a line after every tenth instead; if it is not to be shown, nothing.
    """
    if not shown:
        yield lambda count: None
        return
    if not sys.stderr.isatty():
        yield _line_progress(what, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total)
        yield lambda count: bars.advance(task, count)


def _line_progress(what: str, total: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if before * 10 // max(1, total) != done * 10 // max(1, total):
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    return advance
