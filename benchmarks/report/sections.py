"""Tables as text: sections of lines, and how differences are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from mmhall.benchmarks.base import Metric
from mmhall.benchmarks.evaluation import Cell
from mmhall.benchmarks.evidence import Evidence
from mmhall.results.statistics import Difference, Estimate


@dataclass(frozen=True, slots=True)
class Line:
    """One strategy in one group: its name, and for each metric the value and the difference or remarks, as text.

    Remarks may have several lines; without any text, there are as many empty ones as values.
    """

    strategy: str
    values: tuple[str, ...]
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One table of a group of a benchmark.

    Attributes:
        title: Title of the table.
        table: Name of the table; "" for the main table.
        metrics: Names of the columns.
        lines: Lines as text, one for each strategy.
        cells: Lines as numbers; empty for the figures of an authors' script.
    """

    title: str
    table: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]
    cells: tuple[tuple[Cell, ...], ...]


def rules_mark(rows: Sequence[Evidence]) -> str:
    """Return what the head of a table says where strategies decode by another rule than the baseline; "" elsewhere.

    Two rules are not compared: sampled answers score points below greedy ones, whatever the strategy.
    """
    other = {row.strategy: row.rules for row in rows if row.rules is not None}
    if not other:
        return ""
    base = next(iter(other.values()))[0]
    return (
        f"; decoding rules differ: baseline {base}, {', '.join(f'{name}: {own}' for name, (_, own) in other.items())}"
    )


def column_name(metric: Metric) -> str:
    """Return the name of a metric with its unit, for a column or an axis."""
    return f"{metric.name}{' (%)' if metric.percent else ''}"


def number_text(value: float | None, metric: Metric) -> str:
    """Format a value of a metric."""
    return "n/a" if value is None else f"{value * metric.scale:.1f}"


def estimate_text(estimate: Estimate, metric: Metric) -> str:
    """Format a value with its interval."""
    low, high = estimate.low, estimate.high
    if estimate.value is None or low is None or high is None:
        return "n/a (nothing to divide by)"
    return f"{number_text(estimate.value, metric)} [{number_text(low, metric)}, {number_text(high, metric)}]"


def cell_value(cell: Cell) -> str:
    """Format the value of a cell with its interval; of several seeds, their spread, too."""
    e, scale = cell.estimate, cell.metric.scale
    if not cell.runs or e.low is None or e.high is None:
        return estimate_text(e, cell.metric)
    return f"{spread_text([value * scale for value in cell.runs])} [{e.low * scale:.1f}, {e.high * scale:.1f}]"


def spread_text(values: Sequence[float]) -> str:
    """Format figures of several seeds: mean, standard deviation and range; of one its figure.

    >>> spread_text([83.1, 83.9, 82.7])
    '83.2 (sd 0.61, 82.7-83.9, 3 seeds)'
    """
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} (sd {stdev(values):.2f}, {min(values):.1f}-{max(values):.1f}, {len(values)} seeds)"


def cell_difference(cell: Cell) -> str:
    """Format the difference of a cell from the baseline; "" for the baseline itself."""
    return "" if cell.difference is None else difference_text(cell.difference, cell.metric)


def difference_text(difference: Difference, metric: Metric) -> str:
    """Format a difference with its interval and p-value; in parentheses the one corrected by Holm, if it differs."""
    d, scale = difference, metric.scale
    corrected = "" if d.holm is None or d.holm == d.p else f" ({p_value(d.holm).removeprefix('p').removeprefix('=')})"
    return f"{d.value * scale:+.1f} [{d.low * scale:+.1f}, {d.high * scale:+.1f}] {p_value(d.p)}{corrected}"


def p_value(p: float) -> str:
    """Format a p-value: two significant digits, or "p<0.001".

    >>> p_value(0.0412), p_value(0.00001), p_value(1.0)
    ('p=0.041', 'p<0.001', 'p=1.0')
    """
    return "p<0.001" if p < 0.001 else f"p={p:.2g}" if p < 0.995 else "p=1.0"
