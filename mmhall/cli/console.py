"""What commands share: progress on stderr, tables on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with count, rate and time left on stderr; yields a function that advances it.

    Where stderr is no terminal, a line is written at every tenth instead.
    """
    if not sys.stderr.isatty():
        yield _lines(what, total)
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


def _lines(what: str, total: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if before * 10 // max(1, total) != done * 10 // max(1, total):
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    return advance


def some_path(text: str | Path) -> Path:
    """Read a path to write to; nothing at all would mean the current folder.

    Raises:
        OptionError: It is empty.
    """
    from mmhall.errors import OptionError

    if not str(text).strip():
        raise OptionError("mmhall", "a path to write to", text, "the name of a file or folder")
    return Path(text)


def writable_picture(path: Path, *, force: bool) -> None:
    """Refuse a file that no picture can be written to, before anything expensive is done.

    Raises:
        ImageError: It is there already, its folder does not exist, or its name says no picture format.
    """
    from mmhall.errors import ImageError
    from mmhall.files import why_not_a_file

    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ImageError(f"{path}: its name does not say which picture format to write; use .png, .jpg or .webp")
    folder = path.absolute().parent
    reason = why_not_a_file(folder)
    if reason != "is a folder":
        raise ImageError(f"{path}: its folder {reason or 'is a file'}; give another name, or make the folder first")
    reason = why_not_a_file(path)
    if reason is None and not force:
        raise ImageError(f"{path}: is there already; give another name, or --force to overwrite it")
    if reason not in (None, "does not exist") or not os.access(folder if reason else path, os.W_OK):
        raise ImageError(f"{path}: cannot be written{f' ({reason})' if reason else ''}; give another name")


def tuned_option(text: str | None) -> str | Literal[False] | None:
    """Read --tuned as `mmhall.load` takes it: a file, "none" for none, left out to look in the usual place.

    Raises:
        DataError: The file is not there.
    """
    from mmhall.errors import DataError
    from mmhall.files import why_not_a_file

    if text in (None, "none"):
        return False if text else None
    reason = why_not_a_file(Path(str(text)))
    if reason is not None:
        raise DataError(f"{text}: {reason}; give a file written by `mmhall tune`, or --tuned none")
    return text


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Align cells in columns, two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
