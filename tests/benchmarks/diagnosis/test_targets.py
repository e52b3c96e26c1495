"""Targets of a model: read from a file, compared with value and interval."""

from __future__ import annotations

import pytest

from mmhall.benchmarks.diagnosis.figures import HALLUCINATION, Figure
from mmhall.benchmarks.diagnosis.targets import Range, Targets, read_targets
from mmhall.errors import DataError
from mmhall.results.statistics import Estimate
from tests.benchmarks.conftest import write_json


def figure(value, low, high, key="chair_i"):
    return Figure(key, HALLUCINATION, "CHAIR_i", Estimate(value, low, high, 1, 1))


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.2, 0.18, 0.22, "reached"),
        (0.2, 0.14, 0.22, "reached?"),
        (0.3, 0.26, 0.33, "not reached"),
        (0.26, 0.24, 0.33, "not reached?"),
        (0.1, 0.1, 0.1, "not reached"),
        (None, None, None, "not reached"),
    ],
)
def test_verdicts(value, low, high, verdict):
    targets = Targets({"chair_i": Range(15, 25)})
    assert targets.verdict(figure(value, low, high)) == verdict
    assert targets.verdict(figure(value, low, high, "recall")) == ""


def test_ranges_read_as_a_person_says_them(tmp_path):
    ranges = {"a": [15, 25], "b": [None, 3], "c": [0.333, None]}
    read = read_targets(write_json(tmp_path / "targets.json", {"targets": ranges, "scenes": {"conflict": 1.0}}))
    assert [str(wanted) for wanted in read.ranges.values()] == ["15 to 25", "at most 3", "at least 0.333"]
    assert read.scenes == {"conflict": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"targets": []},
        {"targets": {"a": [1]}},
        {"targets": {"a": [2, 1]}},
        {"targets": {"a": "5"}},
        {"targets": {"a": [None, None]}},
        {"targets": {"a": [True, 2]}},
        {"targets": {}, "scenes": []},
        {"targets": {}, "scenes": {"conflict": "all"}},
        {"targets": {}, "scenes": {"light": 1}},
    ],
)
def test_malformed_targets_are_refused(tmp_path, content):
    with pytest.raises(DataError, match="expected"):
        read_targets(write_json(tmp_path / "targets.json", content))
