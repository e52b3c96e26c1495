"""Helpers of several commands: progress bars, tables, and checks of paths."""

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
    """Show a progress bar on stderr; yields a function that advances it by a count.

    If stderr is not a terminal, print a line after every tenth instead.
    """
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


def parse_output_path(text: str | Path) -> Path:
    """Parse a path to write to; an empty path would mean the current folder.

    Raises:
        OptionError: The path is empty.
    """
    from mmhall.errors import OptionError

    if not str(text).strip():
        raise OptionError("mmhall", "a path to write to", text, "the name of a file or folder")
    return Path(text)


def check_picture_path(path: Path, *, force: bool) -> None:
    """Check that a picture can be written to a path, before anything expensive is done.

    Raises:
        ImageError: The file exists, its folder does not, or its name has no picture format.
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


def parse_tuned(text: str | None) -> str | Literal[False] | None:
    """Parse --tuned for `mmhall.load`: a file; "none" becomes False; left out, None: the model's own file.

    Raises:
        DataError: The file does not exist.
    """
    from mmhall.errors import DataError
    from mmhall.files import why_not_a_file

    if text in (None, "none"):
        return False if text else None
    reason = why_not_a_file(Path(str(text)))
    if reason is not None:
        raise DataError(f"{text}: {reason}; give a file written by `mmhall tune`, or --tuned none")
    return text


def align_columns(rows: list[tuple[str, ...]]) -> str:
    """Align cells in columns with two spaces between them."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
