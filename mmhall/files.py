"""Say what a path stands for, without opening it: a pipe or a device may never end."""

from __future__ import annotations

import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
    (stat.S_ISSOCK, "is a socket"),
)


def no_file(path: Path) -> str | None:
    """Say why a path is no file, such as "does not exist" or "is a folder"; None: it is one.

    Args:
        path: Of whatever length and characters.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {(error.strerror or str(error)).lower()}"
    except (ValueError, RuntimeError) as error:
        return f"is no path: {error}"
    return next((told for test, told in _KINDS if test(mode)), None)
