from __future__ import annotations

import pytest

from mmhall.text import printable


@pytest.mark.parametrize("text", ["", "plain", "a\n\tb", "é 日本語 עברית 🐦", "a\u00a0b\u200b"])
def test_what_shows_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize("letter", [*"\x00\x08\x0b\r\x1b\x1f\x7f\x9f\u061c\u200e\u200f\u202a\u202e\u2066\u2069\ud800"])
def test_what_hides_or_turns_is_written_out(letter):
    assert printable(f"a{letter}b") == f"a\\u{ord(letter):04x}b"
    assert printable(printable(letter)) == printable(letter)
