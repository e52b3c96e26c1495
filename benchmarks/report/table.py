"""The table of a run: every metric with its interval, and under it the difference from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmhall.benchmarks.evaluation import Cell, Evaluation
from mmhall.benchmarks.runs import Part

Evaluated = Sequence[tuple[Part, Evaluation]]


@dataclass(frozen=True, slots=True)
class Line:
    """One strategy in one group: its name, then for each metric the value and the difference."""

    strategy: str
    values: tuple[str, ...]
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One group of one benchmark."""

    title: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]


def sections(evaluated: Evaluated) -> list[Section]:
    """Lay out every group as text; percentages with one decimal, intervals in brackets."""
    made = []
    for part, evaluation in evaluated:
        benchmark = part.benchmark
        for group in benchmark.groups:
            cells = [cell for cell in evaluation.cells if cell.group == group]
            if not cells:
                continue
            count, pictures = evaluation.sizes[group]
            title = f"{benchmark.name} {group}: {count} items, {pictures} pictures, rule {benchmark.rule}"
            by_strategy: dict[str, list[Cell]] = {}
            for cell in cells:
                by_strategy.setdefault(cell.strategy, []).append(cell)
            made.append(
                Section(
                    title,
                    tuple(m.name for m in benchmark.metrics),
                    tuple(
                        Line(s, tuple(map(_value, row)), tuple(map(_difference, row))) for s, row in by_strategy.items()
                    ),
                )
            )
    return made


COST = (
    "benchmark",
    "strategy",
    "seconds per answer",
    "tokens per answer",
    "seconds, ratio to the baseline: median [range]",
)


def cost_lines(evaluated: Evaluated) -> list[tuple[str, ...]]:
    """Lay out what each strategy's answers cost, in the columns of `COST`."""
    return [
        (
            cost.benchmark,
            cost.strategy,
            f"{cost.seconds:.3f}",
            f"{cost.tokens:.1f}",
            "1" if cost.ratio is None else f"{cost.ratio:.2f} [{cost.low:.2f}, {cost.high:.2f}]",
        )
        for _, evaluation in evaluated
        for cost in evaluation.costs
    ]


def remarks(evaluated: Evaluated, fitted: Mapping[str, str]) -> list[str]:
    """Say what a reader must know: what the lines mean, which options were in force, what is missing or cut off.

    Args:
        evaluated: The run's evaluation.
        fitted: Strategies as written for the run, the baseline first, with all options in force on its model.
    """
    said = [
        f"Intervals are 95 %, by picture (bootstrap). Second lines: minus {next(iter(fitted))}, interval, p-value "
        "(exact McNemar for a share of captions, else a paired permutation test by picture)."
    ]
    said += [f"{written} ran as {text}." for written, text in fitted.items() if text != written]
    for part, evaluation in evaluated:
        benchmark = part.benchmark
        said += [f"{benchmark.name}: {remark}" for remark in part.remarks]
        if evaluation.scored < evaluation.expected:
            share = f"{evaluation.scored} of {evaluation.expected}"
            said.append(f"{benchmark.name}: only {share} items are answered by all strategies.")
        for name, count in evaluation.failed.items():
            if count:
                said.append(f"{benchmark.name}, {name}: {count} items could not be answered and count for no strategy.")
        for name, count in evaluation.truncated.items():
            if count:
                said.append(
                    f"{benchmark.name}, {name}: {count} answers were cut off at {benchmark.max_new_tokens} tokens."
                )
    return said


def as_data(evaluated: Evaluated, setup: dict[str, Any]) -> dict[str, Any]:
    """Return everything as plain data for JSON."""
    return {
        "setup": setup,
        "metrics": [
            {
                "benchmark": cell.benchmark,
                "group": cell.group,
                "metric": cell.metric.name,
                "strategy": cell.strategy,
                **asdict(cell.estimate),
                "difference": None if cell.difference is None else asdict(cell.difference),
            }
            for _, evaluation in evaluated
            for cell in evaluation.cells
        ],
        "costs": [asdict(cost) for _, evaluation in evaluated for cost in evaluation.costs],
        "items": [
            {
                "benchmark": part.benchmark.name,
                "expected": e.expected,
                "scored": e.scored,
                "truncated": dict(e.truncated),
                "failed": dict(e.failed),
            }
            for part, e in evaluated
        ],
    }


def _value(cell: Cell) -> str:
    e, scale = cell.estimate, 100 if cell.metric.percent else 1
    if e.value is None or e.low is None or e.high is None:
        return "n/a (nothing to divide by)"
    return f"{e.value * scale:.1f} [{e.low * scale:.1f}, {e.high * scale:.1f}]"


def _difference(cell: Cell) -> str:
    d, scale = cell.difference, 100 if cell.metric.percent else 1
    if d is None:
        return ""
    return f"{d.value * scale:+.1f} [{d.low * scale:+.1f}, {d.high * scale:+.1f}] {p_value(d.p)}"


def p_value(p: float) -> str:
    """Write a p-value: two significant digits, "p<0.001" below.

    >>> p_value(0.0412), p_value(0.00001), p_value(1.0)
    ('p=0.041', 'p<0.001', 'p=1.0')
    """
    return "p<0.001" if p < 0.001 else f"p={p:.2g}" if p < 0.995 else "p=1.0"
