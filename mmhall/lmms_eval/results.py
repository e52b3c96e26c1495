"""Capability scores from the results file of lmms-eval, `..._results.json`.

Its "results" hold a task's metrics by name and filter: {"mmstar": {"average,none": 0.33}}. MMStar's average is a
fraction, and the scores of MMBench and MM-Vet are percentages. "config" holds the arguments of the model: with
`--model mmhall` they name the strategy. "n-samples" holds the number of documents.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmhall import files
from mmhall.errors import DataError
from mmhall.lmms_eval.arguments import make_arguments, split_arguments
from mmhall.results.capability import Capability
from mmhall.results.kinds import describe_data, describe_file

TASKS = {
    "mmstar": ("MMStar", "average", 100.0),
    "mmbench": ("MMBench", "gpt_eval_score", 1.0),
    "mmvet": ("MM-Vet", "gpt_eval_score", 1.0),
}
"""Start of a task's name to the name of the benchmark, its metric, and the factor to percent."""

_EXPECTED = "a results file of lmms-eval with a score of MMStar, MMBench or MM-Vet"


def read_capability(path: Path) -> Capability:
    """Read the capability scores of one run of lmms-eval.

    Raises:
        DataError: The file is missing or of another kind, has no such score, or one that is no percentage.
        MmhallError: Its arguments name an unknown strategy or option.
    """
    data = _read(path)
    scores = {name: _percent(path, name, value, factor) for name, value, factor in _scores(data["results"])}
    if not scores:
        raise DataError(f"{path}: has the tasks {', '.join(map(str, data['results']))}; expected {_EXPECTED}")
    config = data["config"] if isinstance(data.get("config"), Mapping) else {}
    strategy, model = _asked(config)
    return Capability(str(path), scores, _documents(data), strategy, model or str(data.get("model_name") or ""))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(files.read_text(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; expected {_EXPECTED}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON, but {describe_file(path)}; expected {_EXPECTED}") from error
    if not isinstance(data, dict) or not isinstance(data.get("results"), dict):
        raise DataError(f"{path}: has no results, it is {describe_data(data)}; expected {_EXPECTED}")
    return data


def _scores(results: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Yield name, score and factor to percent of each known task that has a score."""
    for task, metrics in results.items():
        known = _name(task)
        if known is None or not isinstance(metrics, Mapping):
            continue
        name, metric, factor = known
        for key, value in metrics.items():
            if key.split(",")[0].rpartition("/")[2] == metric and _is_number(value):
                yield name, float(value), factor


def _name(task: str) -> tuple[str, str, float] | None:
    """Return the name of a task's benchmark with its part, its metric, and the factor to percent; None: another task.

    >>> _name("mmbench_en_dev"), _name("mmstar"), _name("mmstarry")
    (('MMBench en_dev', 'gpt_eval_score', 1.0), ('MMStar', 'average', 100.0), None)
    """
    start, _, part = task.partition("_")
    if start not in TASKS:
        return None
    name, metric, factor = TASKS[start]
    return f"{name} {part}".rstrip(), metric, factor


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _percent(path: Path, name: str, value: float, factor: float) -> float:
    fits = 0 <= value <= 1 if factor == 100 else value == 0 or 1 < value <= 100
    if not fits:
        expected = "a fraction in [0, 1]" if factor == 100 else "a percentage, not a fraction"
        raise DataError(
            f"{path}: the score of {name} must be {expected}, got {value!r}; check the version of lmms-eval"
        )
    return value * factor


def _documents(data: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of documents of each known task, where the file has it."""
    numbers = data.get("n-samples")
    found = {}
    for task, sizes in numbers.items() if isinstance(numbers, Mapping) else ():
        known, size = _name(str(task)), sizes.get("effective") if isinstance(sizes, Mapping) else None
        if known is not None and isinstance(size, int):
            found[known[0]] = size
    return found


def _asked(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return strategy and model of a run with `--model mmhall`; of another model, neither strategy nor name."""
    if config.get("model") != "mmhall":
        return "", ""
    given = config.get("model_args") or {}
    arguments = make_arguments(split_arguments(given) if isinstance(given, str) else dict(given))
    return str(arguments.strategy), arguments.pretrained
