"""The diagnosis as tables of text, and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmhall.benchmarks.diagnosis.diagnosis import Diagnosis
from mmhall.benchmarks.diagnosis.figures import GROUPS, Figure
from mmhall.benchmarks.diagnosis.findings import findings
from mmhall.benchmarks.diagnosis.targets import Targets
from mmhall.results.statistics import Estimate

Row = tuple[str, ...]
_COLUMNS = 4  # of a table of layers, for 100 characters
LEGEND = (
    'Intervals are 95 %, by picture (bootstrap). Target: the range the figure should be in; "?": the interval holds an '
    "end of the range."
)


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the diagnosis.

    Attributes:
        title: Its title.
        rows: Head and lines.
        notes: What a reader should know beside it.
    """

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def sections(diagnosis: Diagnosis, targets: Targets) -> Iterator[Section]:
    """Yield a table for each group of figures, and tables of decoder layers, of few columns each."""
    yield from group_sections(diagnosis, targets)
    layered = [figure for figure in diagnosis.figures if figure.layers and figure.short]
    for start in range(0, len(layered), _COLUMNS):
        part = layered[start : start + _COLUMNS]
        depth = 1 + max(layer for figure in part for layer in figure.layers)
        lines = [
            (str(layer), *(_in_layer(figure, layer) for figure in part))
            for layer in range(depth)
            if any(layer in figure.layers for figure in part)
        ]
        yield Section("by layer", (("layer", *(figure.short for figure in part)), *lines), ())


def group_sections(diagnosis: Diagnosis, targets: Targets) -> Iterator[Section]:
    """Yield a table for each group of figures."""
    for group in GROUPS:
        figures = [figure for figure in diagnosis.figures if figure.group == group]
        aimed = any(figure.key in targets.ranges for figure in figures)
        head = ("figure", "value", "95 %", *(("target", "") if aimed else ()))
        rows = [(*_cells(figure), *(_aim(figure, targets) if aimed else ())) for figure in figures]
        if rows:
            yield Section(
                group, (head, *rows), tuple(f"{f.title}: {f.note.removesuffix('.')}." for f in figures if f.note)
            )


def suggestions(diagnosis: Diagnosis) -> list[str]:
    """Return what the diagnosis suggests, a line for each rule."""
    return [
        f"{one.rule.mechanism.name}: {one.state}{f' ({one.measured})' if one.measured else ''}. {one.text}."
        for one in findings(diagnosis)
    ]


def closing(diagnosis: Diagnosis, targets: Targets) -> list[str]:
    """Return what follows the tables: what was not measured, remarks, and the meaning of the columns."""
    known = {figure.key for figure in diagnosis.figures}
    lost = sorted(set(targets.ranges) - known)
    return [
        *(f"Not measured: {missing.title}: {missing.reason}." for missing in diagnosis.missing),
        *([f"Targets without a figure: {', '.join(lost)}."] if lost else []),
        *diagnosis.remarks,
        LEGEND,
    ]


def as_data(diagnosis: Diagnosis, targets: Targets, setup: Mapping[str, Any]) -> dict[str, Any]:
    """Return the diagnosis as JSON values.

    Args:
        diagnosis: The diagnosis.
        targets: Targets of the model.
        setup: Model, pictures and options.
    """
    return {
        "setup": {**setup, "captions": diagnosis.captions, "questions": diagnosis.questions},
        "figures": [_as_data(figure, targets) for figure in diagnosis.figures],
        "findings": [
            {
                "mechanism": one.rule.mechanism.name,
                "key": one.rule.mechanism.key,
                "state": one.state,
                "measured": one.measured,
                "strategies": list(one.strategies),
                "text": one.text,
            }
            for one in findings(diagnosis)
        ],
        "not_measured": [asdict(missing) for missing in diagnosis.missing],
        "targets_without_figure": sorted(set(targets.ranges) - {figure.key for figure in diagnosis.figures}),
        "remarks": list(diagnosis.remarks),
    }


def _as_data(figure: Figure, targets: Targets) -> dict[str, Any]:
    wanted = targets.ranges.get(figure.key)
    value, low, high = figure.shown or (None, None, None)
    return {
        "key": figure.key,
        "group": figure.group,
        "title": figure.title,
        "unit": "%" if figure.percent else "",
        "value": value,
        "low": low,
        "high": high,
        "target": None if wanted is None else [wanted.low, wanted.high],
        "verdict": targets.verdict(figure),
        "layers": {layer: asdict(estimate) for layer, estimate in figure.layers.items()},
        "heads": {layer: list(values) for layer, values in figure.heads.items()},
        "places": [{"place": place, **asdict(estimate)} for place, estimate in figure.places],
        "note": figure.note,
    }


def _cells(figure: Figure) -> Row:
    title = f"{figure.title}{' (%)' if figure.percent else ''}"
    if figure.shown is None:
        return title, "n/a", ""
    value, low, high = (_number(x, figure.percent) for x in figure.shown)
    return title, value, f"[{low}, {high}]"


def _aim(figure: Figure, targets: Targets) -> Row:
    wanted = targets.ranges.get(figure.key)
    return ("", "") if wanted is None else (str(wanted), targets.verdict(figure))


def _in_layer(figure: Figure, layer: int) -> str:
    estimate = figure.layers.get(layer)
    return "" if estimate is None else _interval(estimate, figure.percent)


def _interval(e: Estimate, percent: bool) -> str:
    if e.value is None or e.low is None or e.high is None:
        return "n/a"
    value, low, high = (_number(x * (100 if percent else 1), percent) for x in (e.value, e.low, e.high))
    return f"{value} [{low}, {high}]"


def _number(value: float, percent: bool) -> str:
    return f"{value:.1f}" if percent or abs(value) >= 100 else f"{value:.2f}"
