"""The evidence of each strategy as a table: its figure beside its twins' and the baseline's, and three ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mmhall.benchmarks.evaluation import Evaluation
from mmhall.benchmarks.evidence import LEAST_SEEDS, Evidence
from mmhall.benchmarks.evidence.frontier import NAME as FRONTIER
from mmhall.benchmarks.evidence.ticks import is_equivalent, is_gain, is_loss
from mmhall.benchmarks.report.sections import Line, Section, column_name, difference_text, number_text, rules_mark
from mmhall.benchmarks.report.yesno import yesno_record

LEGEND = (
    "Evidence: three ticks for each strategy, on the primary metric; Holm within each column of a table. "
    "> baseline: better than the first strategy, paired. "
    "> twins: outside the range of its random twins, on the good side, and better than their mean, paired. "
    "> plain: better than every plain control named below it, paired; the frontier is the least error that captions of "
    "the baseline, made shorter, and plain controls have at the same recall; equal yes share and best threshold are "
    "the baseline's yes/no scores, shifted. "
    '"not run": nothing to compare with, another decoding rule, or sampled answers of fewer than three seeds. '
    "No effect: two one-sided tests at 5 % rule out any as large as the margin; else it is not shown. "
    "changed: share of answers that differ from the baseline's; below 1 % there is no tick."
)


def evidence_sections(evaluation: Evaluation, group: str) -> list[Section]:
    """Return the table of a group with at least two strategies; none for others."""
    rows = [row for row in evaluation.evidence if row.group == group]
    return [_section(rows)] if rows else []


def _section(rows: Sequence[Evidence]) -> Section:
    first, metric = rows[0], rows[0].metric
    columns = column_name(metric), "> baseline", "> twins", "> plain", "changed"
    title = f"{first.benchmark} {first.group}, evidence; the baseline is {first.baseline}"
    return Section(title + rules_mark(rows), "", columns, tuple(map(_line, rows)), ())


def _line(row: Evidence) -> Line:
    ticks = row.better_than_baseline, row.better_than_twins, row.better_than_controls
    values = figures_text(row), *ticks, f"{row.changed / row.answers:.1%}"
    return Line(row.strategy, values, ("\n".join(evidence_remarks(row)), *("",) * (len(values) - 1)))


def figures_text(row: Evidence) -> str:
    """Format a figure beside its twins' and the baseline's: "40.1 · twins 42.1 [39.8-44.0] · greedy 48.0"."""

    def number(value: float | None) -> str:
        return number_text(value, row.metric)

    texts = [number(row.value)]
    if row.twins:
        spread = f"{number(min(row.twins))}-{number(max(row.twins))}"
        texts.append(f"twins {number(sum(row.twins) / len(row.twins))} [{spread}]")
    return " · ".join([*texts, f"{row.baseline} {number(row.base_value)}"])


def evidence_remarks(row: Evidence) -> list[str]:
    """Return what a reader must know beside the ticks, in short lines."""
    texts = []
    if row.did_nothing:
        texts.append(f"did nothing ({row.changed} of {row.answers} answers differ)")
    if row.rules is not None:
        base, own = row.rules
        texts.append(f"other rule: {own}, not {base}")
    if row.lacks_seeds:
        texts.append(f"sampled: a tick needs {LEAST_SEEDS} seeds (mmhall bench --seeds 0,1,2)")
    texts += [effect] if (effect := effect_text(row)) else []
    if row.over_twins is not None:
        texts.append(f"twins: {difference_text(row.over_twins, row.metric)}")
    for control in row.controls:
        compared = "no value" if control.difference is None else difference_text(control.difference, row.metric)
        texts.append(f"{control.name}: {compared}")
        texts += [f"  {control.remark}"] if control.remark else []
    verdict = "" if row.ranking is not None else verdict_text(row)
    return [*texts, f"verdict: {verdict}"] if verdict else texts


def verdict_text(row: Evidence) -> str:
    """Return the verdict on yes/no answers, or in a sentence that on captions; "" without one."""
    control = next((control for control in row.controls if control.name == FRONTIER), None)
    if control is None or control.difference is None or row.did_nothing:
        return row.verdict
    if is_gain(row.metric, control.difference):
        over = "finds more than any plain caption, and errs less than the one that finds most"
        return f"above the frontier: {over if control.remark else 'errs less than plain captions of the same recall'}"
    if control.remark:
        return "no trivial baseline reaches this recall, and it is not shown to err less than the one that finds most"
    return "not above the frontier: not shown to err less than plain captions of the same recall"


def effect_text(row: Evidence) -> str:
    """Return what the absence of the first tick means: worse, no effect, or nothing shown; "" with the tick."""
    found, metric = row.over_baseline, row.metric
    if row.better_than_baseline != "no" or found is None or found.bound is None:
        return ""
    if is_loss(metric, found):
        return f"worse than {row.baseline}"
    unit = " points" if metric.percent else ""
    if is_equivalent(metric, found):
        return f"no effect larger than {metric.margin * metric.scale:.1f}{unit}"
    return f"no effect: not shown; up to {found.bound * metric.scale:.1f}{unit} are not ruled out"


def as_record(row: Evidence) -> dict[str, Any]:
    """Return the evidence of a strategy as JSON values."""
    return asdict(row) | {
        "metric": row.metric.name,
        "no_gain": row.no_gain,
        "effect": effect_text(row),
        "did_nothing": row.did_nothing,
        "better_than_baseline": row.better_than_baseline,
        "better_than_twins": row.better_than_twins,
        "better_than_controls": row.better_than_controls,
        **yesno_record(row),
        "verdict": verdict_text(row),
    }
