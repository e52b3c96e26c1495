"""Targets of a model: the range that each figure of its diagnosis should be in, in a file in its folder.

{"scenes": {"kind": "hard", "conflict": 0.5}, "targets": {"chair_i": [15, 25], "headroom": [null, 3]}}

A range has a least and a largest value, in the unit that the diagnosis prints (percent, where it prints percent); null:
no limit. `scenes` names the options of drawn scenes that the ranges are meant for; they are the defaults of
`mmhall diagnose` and `mmhall bench` for this model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmhall.benchmarks.data.reading import read_json
from mmhall.benchmarks.diagnosis.figures import Figure
from mmhall.errors import DataError
from mmhall.models import find_model_path

FILE = "targets.json"
SCENES: dict[str, Any] = {"kind": str, "conflict": int | float}
_SCENES_IN_WORDS = '"kind", a text, or "conflict", a number'
EXPECTED = 'a file of targets such as {"targets": {"chair_i": [15, 25], "headroom": [null, 3]}}'
REACHED, MISSED = "reached", "not reached"
_UNSURE = "?"


@dataclass(frozen=True, slots=True)
class Range:
    """The range that a figure should be in; None: no limit."""

    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Return the range in words: "15 to 25", "at least 8", "at most 3"."""
        if self.low is None or self.high is None:
            return f"at most {self.high:g}" if self.low is None else f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"

    def holds(self, value: float) -> bool:
        """Whether a value is in the range."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of a model.

    Attributes:
        ranges: Range of each figure, by its key.
        scenes: Options of the drawn scenes that they are meant for.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    scenes: Mapping[str, Any] = field(default_factory=dict)

    def verdict(self, figure: Figure) -> str:
        """Return "reached" or "not reached", with "?" where the interval holds an end of the range; "": no target.

        A figure without a value has not reached its target.
        """
        wanted = self.ranges.get(figure.key)
        if wanted is None:
            return ""
        if figure.shown is None:
            return MISSED
        value, low, high = figure.shown
        unsure = any(end is not None and low < end < high for end in (wanted.low, wanted.high))
        return (REACHED if wanted.holds(value) else MISSED) + _UNSURE * unsure


def targets_of(model: str) -> Targets:
    """Read the targets that lie in the folder of a model; none for other models, and for hub ids.

    Raises:
        DataError: The file is malformed.
        ModelError: The name is invalid, or the folder holds no usable model.
    """
    own = find_model_path(model) / FILE
    return read_targets(own) if own.is_file() else Targets()


def read_targets(path: Path) -> Targets:
    """Read a file of targets.

    Raises:
        DataError: The file is missing or malformed.
    """
    content = read_json(path, EXPECTED)
    ranges = content.get("targets") if isinstance(content, dict) else None
    scenes = content.get("scenes", {}) if isinstance(content, dict) else None
    if not isinstance(ranges, dict) or not isinstance(scenes, dict):
        raise DataError(f"{path}: is no file of targets; expected {EXPECTED}")
    for name, value in scenes.items():
        if name not in SCENES or isinstance(value, bool) or not isinstance(value, SCENES[name]):
            raise DataError(f"{path}: the option {name!r} of scenes is {value!r}; expected {_SCENES_IN_WORDS}")
    return Targets({key: _range(path, key, value) for key, value in ranges.items()}, scenes)


def _range(path: Path, key: str, value: Any) -> Range:
    numbers = isinstance(value, list) and all(
        end is None or (isinstance(end, int | float) and not isinstance(end, bool)) for end in value
    )
    if not numbers or len(value) != 2 or value == [None, None] or (None not in value and value[0] > value[1]):
        raise DataError(f"{path}: the target of {key!r} is {value!r}; expected the least and the largest value")
    return Range(*value)
