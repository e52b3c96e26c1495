"""What must be survived: one row a fault, with its number and what it is; each is done within seconds."""

from __future__ import annotations

import pytest

from tests.faults import images, numerics, runs, serving, text

TABLE = [*images.ROWS, *text.ROWS, *numerics.ROWS, *runs.ROWS, *serving.ROWS]


@pytest.mark.parametrize(("number", "what", "check"), TABLE, ids=[f"{number}: {what}" for number, what, _ in TABLE])
def test_fault(number, what, check, tmp_path, record_property):
    record_property("fault", number)
    check(tmp_path)
