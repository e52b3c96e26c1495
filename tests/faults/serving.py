"""Faults 35 to 45: supply chain and serving."""

from __future__ import annotations

from mmhall.errors import ModelError
from mmhall.located import located
from mmhall.results.export import safe
from tests.faults.support import refuses


def pickled(folder):
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").touch()
    refuses(ModelError, "loads no pickled weights", located, folder)


def spreadsheet(folder):
    for cell in ("=HYPERLINK(1)", "+1", "-cmd", "@SUM", "\tx"):
        assert safe(cell) == f"'{cell}"


ROWS = [
    (35, "pickled weights", pickled),
    (41, "formulas in cells", spreadsheet),
]
