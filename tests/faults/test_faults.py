"""What must be survived: one row a fault, with its number and what it is; each is done within seconds."""

from __future__ import annotations

import pytest

from tests.faults import images, numerics, runs, serving, text

TABLE = [*images.ROWS, *text.ROWS, *numerics.ROWS, *runs.ROWS, *serving.ROWS]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def shared_page():
    """Close the page that rows share."""
    yield
    serving.OPEN.close()
    serving.shared.cache_clear()


LONG = {24, 25, 26, 32}
"""Rows that take seconds each: their kinds of fault have tests of their own beside the code."""


def case(number, what, check):
    return pytest.param(number, what, check, id=f"{number}: {what}", marks=pytest.mark.long if number in LONG else ())


@pytest.mark.parametrize(("number", "what", "check"), [case(*row) for row in TABLE])
def test_fault(number, what, check, tmp_path, record_property):
    record_property("fault", number)
    check(tmp_path)
