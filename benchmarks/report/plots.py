"""Plots of a run as SVG text: quality against cost, and separate tables with one panel per metric."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from mmhall.benchmarks.evaluation import Cell
from mmhall.benchmarks.report.sections import Section, column_name
from mmhall.benchmarks.report.table import Evaluated
from mmhall.results.statistics import Estimate

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: safe for colour-blind eyes
MARKERS = "os^Dv*"
_MOST_PANELS = 3  # beside each other
_RATIOS = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64)


def plot_against_cost(evaluated: Evaluated) -> str:
    """Plot each benchmark's primary metric in its `plotted` group against cost, with intervals; "" without costs."""
    panels = [
        (part.benchmark, e, part.benchmark.plotted or e.cells[-1].group) for part, e in evaluated if e.cells and e.costs
    ]
    figure = Figure(figsize=(4.6 * max(1, len(panels)), 4.4), layout="constrained")
    for number, (benchmark, evaluation, group) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        metric = benchmark.primary
        cells = {c.strategy: c for c in evaluation.cells if c.group == group and c.metric is metric}
        for index, cost in enumerate(evaluation.costs):
            if cost.strategy in cells:
                _point(axes, cost.ratio or 1.0, cells[cost.strategy], index)
        axes.set_xlabel("seconds per answer, ratio to the baseline")
        better = f", {metric.better} is better" if metric.better else ""
        axes.set_ylabel(f"{column_name(metric)}{better}")
        axes.set_title(f"{benchmark.name}, {group}", loc="left", fontsize=10)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(_RATIOS))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    if figure.axes:
        shown = figure.axes[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return to_svg(figure) if panels else ""


def plot_table(section: Section) -> str:
    """Plot a table: a panel for each metric, with a point and its interval for each strategy."""
    count, names = len(section.metrics), [line.strategy for line in section.lines]
    wide = min(count, _MOST_PANELS)
    high = -(-count // wide)
    figure = Figure(figsize=(1.6 + 2.6 * wide, high * (1.0 + 0.26 * len(names))), layout="constrained")
    for number in range(count):
        axes = figure.add_subplot(high, wide, number + 1)
        cells = [row[number] for row in section.cells]
        for index, cell in enumerate(cells):
            _range(axes, cell.estimate, cell.metric.scale, index)
        axes.set_yticks(range(len(names)), names if number % wide == 0 else [""] * len(names), fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(column_name(cells[0].metric), loc="left", fontsize=9)
        axes.grid(alpha=0.3)
    return to_svg(figure)


def _point(axes: Axes, ratio: float, cell: Cell, index: int) -> None:
    e, scale = cell.estimate, cell.metric.scale
    if e.value is None or e.low is None or e.high is None:
        return
    axes.errorbar(
        ratio,
        scale * e.value,
        [[scale * max(0.0, e.value - e.low)], [scale * max(0.0, e.high - e.value)]],
        fmt=unlike_marker(index),
        color=COLOURS[index % len(COLOURS)],
        capsize=4,
        label=cell.strategy,
    )


def _range(axes: Axes, e: Estimate, scale: float, index: int) -> None:
    if e.value is None or e.low is None or e.high is None:
        return
    axes.plot([scale * e.low, scale * e.high], [index, index], color=COLOURS[0], linewidth=2)
    axes.plot([scale * e.value], [index], "o", color=COLOURS[0], markersize=5)


def unlike_marker(index: int) -> str:
    """Return a marker for a 0-based number; no two numbers have both marker and colour in common."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def to_svg(figure: Figure) -> str:
    """Return a figure as SVG text."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg") :]


def draw_tables(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Plot every table except the main ones: title and SVG text."""
    return [(section.title, plot_table(section)) for section in sections if section.table]
