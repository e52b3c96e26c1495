"""Answers read again with other labels, in the report: figures beside those of the run's own labels, and the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mmhall.benchmarks.evaluation import Cell, Evaluation
from mmhall.benchmarks.report.sections import Line, Section, column_name, difference_text, estimate_text
from mmhall.benchmarks.run.relabel import Relabelled

METRICS = ("accuracy", "F1")


def relabelled_sections(evaluation: Evaluation, group: str) -> list[Section]:
    """Return the table of a group whose answers were read again; none for others."""
    again = evaluation.relabelled
    if again is None or group not in again.evaluation.sizes:
        return []
    pairs = {name: (_cells(evaluation, group, name), _cells(again.evaluation, group, name)) for name in METRICS}
    first = next(iter(pairs.values()))[0]
    names = [column_name(next(iter(old.values())).metric) for old, _ in pairs.values()]
    columns = tuple(column for name in names for column in (name, f"{name}, these labels"))
    lines = [_line([cells[strategy] for pair in pairs.values() for cells in pair]) for strategy in first]
    count = again.evaluation.sizes[group][0]
    benchmark = next(iter(first.values())).benchmark
    title = f"{benchmark} {group}, evidence: read again with the labels of {again.source}: {count} of "
    return [Section(f"{title}{evaluation.sizes[group][0]} items", "", columns, tuple(lines), ())]


def relabelled_remarks(name: str, evaluation: Evaluation) -> list[str]:
    """Return what a reader must know about the other labels, and whether the order of the strategies changes.

    Args:
        name: Name of the benchmark.
        evaluation: Its evaluation; without other labels there are no remarks.
    """
    again = evaluation.relabelled
    if again is None:
        return []
    texts = [f"{name}, labels of {again.source}: {file}" for file in again.files]
    for setting, c in again.coverage.items():
        texts.append(
            f"{name} {setting}, labels of {again.source}: {c.kept} questions have one ({c.became_no} turned from yes "
            f"to no, {c.became_yes} from no to yes); {c.dropped} have none and are dropped; {c.unknown} are about "
            f"pictures without any label; {c.unmatched} labels are for no question of this run"
        )
    return texts + [f"{name} {group}: {text}" for group, text in _orders(evaluation, again)]


def relabelled_record(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return the second reading as JSON values; None without one."""
    again = evaluation.relabelled
    if again is None:
        return None
    return {
        "source": again.source,
        "files": list(again.files),
        "coverage": {setting: asdict(coverage) for setting, coverage in again.coverage.items()},
        "metrics": [
            {
                "group": cell.group,
                "metric": cell.metric.name,
                "strategy": cell.strategy,
                **asdict(cell.estimate),
                "difference": None if cell.difference is None else asdict(cell.difference),
            }
            for cell in again.evaluation.cells
        ],
        "orders": dict(_orders(evaluation, again)),
    }


def _cells(evaluation: Evaluation, group: str, metric: str) -> dict[str, Cell]:
    """Return the cells of one metric in one group, by strategy."""
    return {cell.strategy: cell for cell in evaluation.cells if (cell.group, cell.metric.name) == (group, metric)}


def _line(cells: Sequence[Cell]) -> Line:
    values = tuple(estimate_text(cell.estimate, cell.metric) for cell in cells)
    below = ("" if cell.difference is None else difference_text(cell.difference, cell.metric) for cell in cells)
    return Line(cells[0].strategy, values, tuple(below))


def _orders(evaluation: Evaluation, again: Relabelled) -> list[tuple[str, str]]:
    """Return for each group that was read again whether the order of strategies changes; none for one strategy."""
    texts = []
    for group in again.evaluation.sizes:
        parts = []
        for name in METRICS:
            old, new = (order_text(_cells(each, group, name)) for each in (evaluation, again.evaluation))
            parts.append(f"by {name} stays ({old})" if old == new else f"by {name} changes: {old} becomes {new}")
        if len(_cells(evaluation, group, METRICS[0])) > 1:
            texts.append((group, f"with the labels of {again.source} the order of strategies {', '.join(parts)}"))
    return texts


def order_text(cells: dict[str, Cell]) -> str:
    """Return strategies from the highest to the lowest value of one metric, such as "vdd > greedy = vcd".

    Args:
        cells: Strategy to its cell; one without a value is left out.
    """
    values = {strategy: cell.estimate.value for strategy, cell in cells.items() if cell.estimate.value is not None}
    places = sorted(set(values.values()), reverse=True)
    return " > ".join(" = ".join(s for s, value in values.items() if value == place) for place in places)
