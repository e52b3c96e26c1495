"""Faults 13 to 17: prompts, answers and file names."""

from __future__ import annotations

from mmhall.demo.rendering import notice
from mmhall.results.store import Row, Store
from mmhall.text import printable


def odd_text(folder):
    told = "a\0b\u202ec👩‍👩‍👧e" + "\u0301" * 50
    store = Store.create(folder, {})
    store.add([Row("pope", "1", "greedy", told, "eos", 1, 0.1, 0)])
    assert next(iter(store.rows("pope"))).text == told
    assert printable("\0\u202e\ud800") == r"\u0000\u202e\ud800"


def markup(folder):
    assert "<script>" not in notice("<script>", "<script>")


ROWS = [
    (15, "characters that break texts", odd_text),
    (17, "markup in texts of the page", markup),
]
