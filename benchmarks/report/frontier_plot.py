"""Plot of captions: recall against error of strategies, over what shorter captions of the baseline reach."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmhall.benchmarks.base import Metric
from mmhall.benchmarks.evaluation import Cell, Evaluation
from mmhall.benchmarks.evidence.frontier import Frontier, PlainArm
from mmhall.benchmarks.report import plots
from mmhall.benchmarks.report.table import Evaluated

_GREY = "#767676"


def draw_frontiers(evaluated: Evaluated) -> list[tuple[str, str]]:
    """Plot the frontier of each group of captions: title and SVG text."""
    return [
        (f"{part.benchmark.name} {group}: frontier of plain arms", plot_frontier(evaluation, group, frontier))
        for part, evaluation in evaluated
        for group, frontier in evaluation.frontiers.items()
    ]


def plot_frontier(evaluation: Evaluation, group: str, frontier: Frontier) -> str:
    """Plot plain arms by name, their staircase, mixtures of neighbours (dotted), and strategies with intervals."""
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    _plain_arms(axes, frontier)
    cells = {
        (cell.strategy, cell.metric.name): cell
        for cell in evaluation.cells
        if cell.group == group and cell.metric in (frontier.recall, frontier.error)
    }
    strategies = [strategy for strategy in dict.fromkeys(name for name, _ in cells) if strategy not in _names(frontier)]
    for index, strategy in enumerate(strategies[1:]):  # the baseline is the arm of whole captions
        _strategy(axes, cells[strategy, frontier.recall.name], cells[strategy, frontier.error.name], index)
    axes.set_xlabel(_label(frontier.recall))
    axes.set_ylabel(_label(frontier.error))
    axes.margins(x=0.12)  # room for names
    axes.grid(alpha=0.3)
    if len(strategies) > 1:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return plots.to_svg(figure)


def _names(frontier: Frontier) -> set[str]:
    return {arm.name for arm in frontier.arms}


def _plain_arms(axes: Axes, frontier: Frontier) -> None:
    across, up = frontier.recall.scale, frontier.error.scale
    for arm in frontier.arms:
        axes.plot(across * arm.recall, up * arm.error, "." if arm.is_member else "x", color=_GREY, markersize=6)
        axes.annotate(
            arm.name, (across * arm.recall, up * arm.error), (4, 4), textcoords="offset points", fontsize=7, color=_GREY
        )
    members = _rising(frontier.arms)
    points = [across * arm.recall for arm in members], [up * arm.error for arm in members]
    axes.step(*points, where="pre", color=_GREY, linewidth=1)
    axes.plot(*points, ":", color=_GREY, linewidth=1)


def _rising(arms: Sequence[PlainArm]) -> list[PlainArm]:
    return sorted((arm for arm in arms if arm.is_member), key=lambda arm: (arm.recall, arm.error))


def _strategy(axes: Axes, recall: Cell, error: Cell, index: int) -> None:
    shown = []
    for cell in (recall, error):
        e, scale = cell.estimate, cell.metric.scale
        if e.value is None or e.low is None or e.high is None:
            return
        shown.append((scale * e.value, [[scale * max(0.0, e.value - e.low)], [scale * max(0.0, e.high - e.value)]]))
    (x, across), (y, up) = shown
    axes.errorbar(
        x,
        y,
        xerr=across,
        yerr=up,
        fmt=plots.unlike_marker(index),
        color=plots.COLOURS[index % len(plots.COLOURS)],
        capsize=3,
        linewidth=1,
        label=error.strategy,
    )


def _label(metric: Metric) -> str:
    return f"{metric.name}{' (%)' if metric.percent else ''}, {metric.better} is better"
