"""Files: checks without opening, text encodings, and atomic writes."""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

LONGEST = 2_000_000_000  # bytes; limit for a file that is read as a whole. The largest file of COCO has 0.5 billion
_LONGEST_NAME = 150
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10))}
_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
    (stat.S_ISSOCK, "is a socket"),
)


def why_not_a_file(path: Path) -> str | None:
    """Return the reason why a path is not a regular file, such as "does not exist" or "is a folder", or None.

    Args:
        path: Path of any length, with any characters.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {(error.strerror or str(error)).lower()}"
    except (ValueError, RuntimeError) as error:
        return f"is not a valid path: {error}"
    return next((description for test, description in _KINDS if test(mode)), None)


def file_name(text: str) -> str:
    """Convert a text to a file name that is valid on every system; a digest keeps cut or reserved names distinct.

    >>> file_name("some/model-7b"), file_name("con")
    ('some--model-7b', '1143da2b-con')
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "--", text).lstrip(".")
    if name and len(name) <= _LONGEST_NAME and name.partition(".")[0].upper() not in _RESERVED:
        return name
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
    return f"{digest}-{name[:_LONGEST_NAME]}".rstrip("-")


def read_text(path: Path) -> str:
    """Read UTF-8 text, with or without a byte order mark, or UTF-16 text with a byte order mark.

    Raises:
        OSError: The file cannot be read, is a pipe or a device, which may never end, or is larger than `LONGEST`.
        UnicodeDecodeError: The text has another encoding.
    """
    _check_file(path)
    size = path.stat().st_size
    if size > LONGEST:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than the limit of {LONGEST:,}", str(path))
    return path.read_text(encoding=detect_encoding(path))


def detect_encoding(path: Path) -> str:
    """Return the encoding of a text file: UTF-16 if it begins with that byte order mark (Windows), otherwise UTF-8.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def csv_delimiter(header: str) -> str:
    """Return the delimiter of a table by its header line: a tab or semicolon if it has no comma, else a comma."""
    return next((mark for mark in "\t;" if mark in header and "," not in header), ",")


def is_file(path: Path) -> bool:
    """Tell whether a path is a file; an invalid name, or a folder without permission, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path; the file written there replaces `path` at the end, but not after an error.

    Raises:
        OSError: The file cannot be written, or `path` is a pipe or a device.
    """
    path = path.resolve()  # follow links
    _check_file(path)
    scratch = path.with_name(f".mmhall-{os.getpid()}-{get_ident()}{path.suffix}")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _check_file(path: Path) -> None:
    reason = why_not_a_file(path)
    if reason in ("is a pipe", "is a device", "is a socket"):
        raise OSError(errno.EINVAL, f"it {reason}", str(path))
