"""Forest plots beside a table: each strategy's difference from the baseline with its interval, in the table's rows.

A panel has one axis for all strategies; places on it are percent of its width, so that a template draws them. The axis
has 0, and is as wide as the widest interval needs; what is better lies on the side that `better` names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmhall.benchmarks.evaluation import Cell
from mmhall.benchmarks.report.sections import difference_text
from mmhall.benchmarks.report.summary import Head, Mark, mark_of

_MARGIN = 0.06  # beside what is drawn, on either side


@dataclass(frozen=True, slots=True)
class Whisker:
    """The difference of one strategy.

    Attributes:
        low: Place of the lower end of its interval, in percent of the axis.
        value: Place of the difference.
        high: Place of the upper end.
        mark: Whether it is better or worse than the baseline.
        text: The difference with its interval and p-value.
    """

    low: float
    value: float
    high: float
    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A forest plot.

    Attributes:
        head: Head of the figure's column.
        better: "higher" or "lower"; "" if neither is better.
        ticks: Places on the axis with their labels; 0 is one of them.
        whiskers: Strategy to its difference; strategies without one are left out.
    """

    head: Head
    better: str
    ticks: tuple[tuple[float, str], ...]
    whiskers: Mapping[str, Whisker]


def draw_forest(leading: Mapping[Head, Sequence[Cell]]) -> list[Panel]:
    """Return a panel for each figure in which strategies are compared.

    Args:
        leading: Head to its cells, the baseline first; see `Summary.leading`.
    """
    return [panel for head, cells in leading.items() if (panel := _panel(head, cells)) is not None]


def _panel(head: Head, cells: Sequence[Cell]) -> Panel | None:
    compared = [(cell, cell.difference) for cell in cells if cell.difference is not None]
    if not compared:
        return None
    scale = cells[0].metric.scale
    least = min(0.0, *(scale * found.low for _, found in compared))
    most = max(0.0, *(scale * found.high for _, found in compared))
    margin = _MARGIN * ((most - least) or 1.0)
    start, width = least - margin, most - least + 2 * margin

    def place(value: float) -> float:
        return round(100 * (value - start) / width, 2)

    whiskers = {
        cell.strategy: Whisker(
            place(scale * found.low),
            place(scale * found.value),
            place(scale * found.high),
            mark_of(cell),
            difference_text(found, cell.metric),
        )
        for cell, found in compared
    }
    ticks = tuple((place(value), f"{value:g}") for value in axis_ticks(least, most))
    return Panel(head, cells[0].metric.better or "", ticks, whiskers)


def axis_ticks(low: float, high: float) -> list[float]:
    """Return 0 and the round numbers between two that enclose it: steps of 1, 2 or 5 times a power of ten.

    >>> axis_ticks(-7.4, 2.1), axis_ticks(-0.03, 0.31)
    ([-5.0, 0.0], [0.0, 0.1, 0.2, 0.3])
    """
    if low == high:
        return [0.0]
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= 4)
    return [round(number * step, 10) + 0.0 for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
