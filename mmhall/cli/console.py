"""Helpers of several commands: tables, and checks of paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal


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
