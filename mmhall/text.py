"""Texts made safe to look at, where nothing hides or turns what stands beside it, and to give away."""

from __future__ import annotations

import re
from pathlib import Path

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with its control and bidirectional format characters written out, and half surrogate pairs.

    Newlines and tabs stay.

    >>> print(printable("a\u202eb\x07"))
    a\u202eb\u0007
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def without_home(text: str) -> str:
    """Write "~" for the user's home folder, wherever a text names it: results are given away, and it names the user."""
    try:
        home = str(Path.home())
    except RuntimeError:  # there is none
        return text
    return text if home == "/" else re.sub(rf"(?<![\w./~-]){re.escape(home)}(?![\w.-])", "~", text)
