"""Texts that strangers wrote, made safe to look at: nothing in them hides or turns what stands beside it."""

from __future__ import annotations

import re

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with its control and bidirectional format characters written out, and half surrogate pairs.

    Newlines and tabs stay.

    >>> print(printable("a\u202eb\x07"))
    a\u202eb\u0007
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
