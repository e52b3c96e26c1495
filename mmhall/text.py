"""Text made safe to display and to share: without control characters, without the user's home folder."""

from __future__ import annotations

import re
from pathlib import Path

_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escape control characters, bidirectional format characters and lone surrogates of a text.

    Newlines and tabs do not change.

    >>> print(printable("a\u202eb\x07"))
    a\u202eb\u0007
    """
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def without_home(text: str) -> str:
    """Replace the user's home folder in a text by "~": its name often names the user, and results are shared."""
    try:
        home = str(Path.home())
    except RuntimeError:  # no home folder
        return text
    return text if home == "/" else re.sub(rf"(?<![\w./~-]){re.escape(home)}(?![\w.-])", "~", text)


def shorten(text: str, width: int) -> str:
    r"""Return a text on one line of at most `width` characters, its end replaced by "..." where it is longer.

    >>> shorten("A dog\nand a cat.", 12), shorten("A dog.", 12)
    ('A dog and...', 'A dog.')
    """
    line = " ".join(printable(text[: 4 * width]).split())
    return line if len(line) <= width and len(text) <= 4 * width else f"{line[: width - 3].rstrip()}..."
