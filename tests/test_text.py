from __future__ import annotations

import pytest

from mmhall.text import printable, without_home


@pytest.mark.parametrize("text", ["", "plain", "a\n\tb", "é 日本語 עברית 🐦", "a\u00a0b\u200b"])
def test_what_shows_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize("letter", [*"\x00\x08\x0b\r\x1b\x1f\x7f\x9f\u061c\u200e\u200f\u202a\u202e\u2066\u2069\ud800"])
def test_what_hides_or_turns_is_written_out(letter):
    assert printable(f"a{letter}b") == f"a\\u{ord(letter):04x}b"
    assert printable(printable(letter)) == printable(letter)


@pytest.mark.parametrize(
    ("text", "given_away"),
    [
        ("/home/me/data/a.png: is torn", "~/data/a.png: is torn"),
        ("see '/home/me' and /home/me/x", "see '~' and ~/x"),
        ("/home/member/x", "/home/member/x"),
        ("/data/home/me/x", "/data/home/me/x"),
        ("some/model", "some/model"),
    ],
)
def test_the_home_folder_is_not_given_away(monkeypatch, text, given_away):
    monkeypatch.setenv("HOME", "/home/me")
    assert without_home(text) == given_away


def test_where_home_is_all_nothing_changes(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert without_home("/data/x") == "/data/x"
