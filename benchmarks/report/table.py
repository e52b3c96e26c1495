"""Tables of a run: every metric with its interval, and below it the difference from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from mmhall.benchmarks.base import Metric
from mmhall.benchmarks.evaluation import Cell, Cost, Evaluation, Reason
from mmhall.benchmarks.evidence import lineup_of
from mmhall.benchmarks.report.captions import caption_remarks, caption_sections, captions_as_data
from mmhall.benchmarks.report.design import design_remarks
from mmhall.benchmarks.report.evidence import LEGEND, as_record, evidence_sections
from mmhall.benchmarks.report.grid import grid_sections
from mmhall.benchmarks.report.relabelled import relabelled_record, relabelled_remarks, relabelled_sections
from mmhall.benchmarks.report.sections import Line, Section, cell_difference, cell_value, rules_mark
from mmhall.benchmarks.report.settings import configuration_digest
from mmhall.benchmarks.report.yesno import yesno_legends, yesno_sections
from mmhall.benchmarks.rules.amber import amber_score
from mmhall.benchmarks.run.runs import Part

_REASONS = 3  # reasons shown for each strategy
Evaluated = Sequence[tuple[Part, Evaluation]]


def sections(evaluated: Evaluated) -> list[Section]:
    """Format every group as tables, the main table first; percentages with one decimal, intervals in brackets."""
    tables = []
    for part, evaluation in evaluated:
        benchmark = part.benchmark
        tables += grid_sections(part, evaluation)
        for group in benchmark.groups:
            for name in dict.fromkeys(metric.table for metric in benchmark.metrics):
                cells = [cell for cell in evaluation.cells if cell.group == group and cell.metric.table == name]
                shown = [m for m in benchmark.metrics if any(cell.metric is m and _has_content(cell) for cell in cells)]
                if shown:
                    count, clusters = evaluation.sizes[group]
                    title = f"{benchmark.name} {group}{', ' if name else ''}{name}"
                    title += "" if name else f": {count} items, {clusters} pictures, rule {benchmark.rule}"
                    title += f", at most {benchmark.max_new_tokens} new tokens" if benchmark.trades and not name else ""
                    title += rules_mark([row for row in evaluation.evidence if row.group == group])
                    tables.append(_section(title, name, shown, cells))
                tables += _evidence(evaluation, group) if not name else []
            tables += caption_sections(evaluation, group)
        tables += official_sections(part, evaluation)
    return tables + amber_sections(evaluated)


def _evidence(evaluation: Evaluation, group: str) -> list[Section]:
    """Return the tables below the main table of a group."""
    parts = evidence_sections, yesno_sections, relabelled_sections
    return [section for part in parts for section in part(evaluation, group)]


def official_sections(part: Part, evaluation: Evaluation) -> list[Section]:
    """Format the figures of the authors' script as a table; no table without figures."""
    lines, columns = [], tuple(dict.fromkeys(name for figures in evaluation.official.values() for name in figures))
    for strategy, figures in evaluation.official.items():
        values = tuple("/".join(f"{value:.1f}" for value in figures.get(name, ())) for name in columns)
        lines.append(Line(strategy, values, ("",) * len(values)))
    names = f", {part.benchmark.official}" if part.benchmark.official else ""
    title = f"{part.benchmark.name}, figures of the authors' script{names}, rule {part.benchmark.rule}"
    return [Section(title, "", columns, tuple(lines), ())] if lines else []


def amber_sections(evaluated: Evaluated) -> list[Section]:
    """Format the AMBER score of each strategy, for a run of both amber-g and amber-d."""
    figures = {part.benchmark.name: evaluation.official for part, evaluation in evaluated}
    captions, answers = figures.get("amber-g", {}), figures.get("amber-d", {})
    scores = {s: amber_score(captions[s]["CHAIR"][0], answers[s]["overall"][-1]) for s in captions if s in answers}
    lines = tuple(Line(strategy, (f"{score:.1f}",), ("",)) for strategy, score in scores.items())
    title = "AMBER score, (100 - CHAIR of amber-g + overall F1 of amber-d) / 2, figures of the authors' script"
    return [Section(title, "", ("AMBER score",), lines, ())] if lines else []


def _has_content(cell: Cell) -> bool:
    """Tell whether a cell is shown: always in the main table, else if it has a value."""
    return not cell.metric.table or cell.estimate.value is not None


def _section(title: str, table: str, metrics: Sequence[Metric], cells: Sequence[Cell]) -> Section:
    by_strategy: dict[str, list[Cell]] = {}
    for metric in metrics:
        for cell in cells:
            if cell.metric is metric:
                by_strategy.setdefault(cell.strategy, []).append(cell)
    lines = [Line(s, tuple(map(cell_value, row)), tuple(map(cell_difference, row))) for s, row in by_strategy.items()]
    return Section(title, table, tuple(m.name for m in metrics), tuple(lines), tuple(map(tuple, by_strategy.values())))


COST = (
    "benchmark",
    "strategy",
    "rows per token",
    "passes per token",
    "prompt read, times",
    "tokens per answer",
    "seconds per answer",
    "seconds, ratio to the baseline: median [range]",
)
COST_REMARK = (
    "Cost: rows of the decoder are counted over the tokens of the answers, passes over those of each batch's longest; "
    "a row is one position of one branch or beam. Prompt read: positions computed over positions there; below 1 where "
    "questions share their picture. Seconds were measured beside the other work of this machine; `mmhall speed` "
    "measures alone."
)


def cost_lines(evaluated: Evaluated) -> list[tuple[str, ...]]:
    """Format the cost of each strategy's answers, in the columns of `COST`."""
    return [
        (
            cost.benchmark,
            cost.strategy,
            *("-" if value is None else f"{value:.2f}" for value in (cost.rows, cost.passes, cost.prompt)),
            f"{cost.tokens:.1f}",
            f"{cost.seconds:.3f}",
            "1" if cost is evaluation.costs[0] else _ratio(cost),
        )
        for _, evaluation in evaluated
        for cost in evaluation.costs
    ]


def _ratio(cost: Cost) -> str:
    return "-" if cost.ratio is None else f"{cost.ratio:.2f} [{cost.low:.2f}, {cost.high:.2f}]"


def remarks(
    evaluated: Evaluated, fitted: Mapping[str, str], left_out: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Return notes on a report: the meaning of its lines, the options in force, missing and truncated answers.

    Args:
        evaluated: Evaluation of the run.
        fitted: Strategy as written for the run, the baseline first, to the strategy with all options in force.
        left_out: Name of a strategy that was wanted and not run, to the reason.
    """
    texts = [
        "Intervals are 95 %, by picture (score intervals of shares, else bootstrap). Second lines: minus "
        f"{next(iter(fitted))}, interval, p-value "
        "(exact McNemar for a share of captions, else a paired permutation test by picture)"
        + ("; in parentheses corrected for the number of strategies (Holm)." if len(fitted) > 2 else ".")
    ]
    texts += [COST_REMARK] if any(evaluation.costs for _, evaluation in evaluated) else []
    texts += [LEGEND] if any(evaluation.evidence for _, evaluation in evaluated) else []
    texts += yesno_legends([evaluation for _, evaluation in evaluated])
    texts += events(evaluated, fitted, left_out)
    for part, evaluation in evaluated:
        benchmark = part.benchmark
        texts += [f"{benchmark.name}: {remark}" for remark in (*part.remarks, *evaluation.remarks)]
        texts += design_remarks(part, evaluation)
        if len(fitted) > 1:
            texts += [
                f"{benchmark.name} {group}: each strategy is read together with {next(iter(fitted))}, "
                f"{benchmark.pairing}."
                for group in benchmark.pairwise
                if group in evaluation.sizes
            ]
        texts += caption_remarks(evaluation)
    return texts


def events(
    evaluated: Evaluated, fitted: Mapping[str, str], left_out: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Return what happened in a run: what was not run, options in force, missing and truncated answers.

    Args:
        evaluated: Evaluation of the run.
        fitted: Strategy as written for the run to the strategy with all options in force.
        left_out: Name of a strategy that was wanted and not run, to the reason.
    """
    texts = [f"Not run: {name}: {reason}" for name, reason in left_out.items()]
    texts += [f"{written} ran as {text}." for written, text in fitted.items() if text != written]
    for part, evaluation in evaluated:
        benchmark = part.benchmark
        texts += relabelled_remarks(benchmark.name, evaluation)
        if evaluation.scored < evaluation.expected:
            share = f"{evaluation.scored} of {evaluation.expected}"
            texts.append(f"{benchmark.name}: only {share} items are answered by all strategies.")
        for name, count in evaluation.failed.items():
            if count:
                why = _reasons(evaluation.reasons[name])
                texts.append(
                    f"{benchmark.name}, {name}: {count} items could not be answered and count for no strategy: {why}."
                )
        for name, count in evaluation.truncated.items():
            if count:
                texts.append(
                    f"{benchmark.name}, {name}: {count} answers were cut off at {benchmark.max_new_tokens} tokens."
                )
        for name, count in evaluation.thoughts_only.items():
            if count:
                texts.append(
                    f"{benchmark.name}, {name}: {count} answers are thoughts alone, which never end or have nothing "
                    "behind them, and count as unparsed or as saying nothing; let the model write more tokens."
                )
    return texts


def _reasons(reasons: Sequence[Reason]) -> str:
    """Format the most frequent reasons of failures, each with its first item."""
    shown = [f"{reason.count} x {reason.text} (first: item {reason.first})" for reason in reasons[:_REASONS]]
    more = [f"{len(reasons) - _REASONS} other reasons"] if len(reasons) > _REASONS else []
    return ", ".join([*shown, *more])


def as_data(evaluated: Evaluated, setup: dict[str, Any]) -> dict[str, Any]:
    """Return the whole report as JSON values."""
    return {
        "setup": setup,
        "metrics": [
            {
                "benchmark": cell.benchmark,
                "group": cell.group,
                "metric": cell.metric.name,
                "strategy": cell.strategy,
                **asdict(cell.estimate),
                **({"runs": cell.runs} if cell.runs else {}),
                "difference": None if cell.difference is None else asdict(cell.difference),
            }
            for _, evaluation in evaluated
            for cell in (*evaluation.cells, *evaluation.means)
        ],
        "configurations": {arm: configuration_digest(text) for arm, text in setup.get("fitted", {}).items()},
        "evidence": [as_record(row) for _, evaluation in evaluated for row in evaluation.evidence],
        "captions": {part.benchmark.name: captions_as_data(e) for part, e in evaluated if e.captions},
        "costs": [asdict(cost) for _, evaluation in evaluated for cost in evaluation.costs],
        "items": [
            {
                "benchmark": part.benchmark.name,
                "expected": e.expected,
                "scored": e.scored,
                "truncated": dict(e.truncated),
                "failed": e.failed,
                "reasons": {name: [asdict(reason) for reason in reasons] for name, reasons in e.reasons.items()},
                "thoughts_only": dict(e.thoughts_only),
                **({"official": e.official} if e.official else {}),
                **({"relabelled": relabelled_record(e)} if e.relabelled else {}),
            }
            for part, e in evaluated
        ],
        "remarks": remarks(
            evaluated,
            {s: setup.get("fitted", {}).get(s, s) for s in lineup_of(setup["strategies"]).arms},
            setup.get("left_out", {}),
        ),
    }
