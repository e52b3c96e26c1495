"""Yes/no answers in the report: do scores rank better or does only the threshold move, and which answers turned?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mmhall.benchmarks.base import Metric
from mmhall.benchmarks.evaluation import Evaluation
from mmhall.benchmarks.evidence import Evidence
from mmhall.benchmarks.evidence.outcomes import Turns
from mmhall.benchmarks.evidence.ticks import AUROC
from mmhall.benchmarks.report.sections import (
    Line,
    Section,
    column_name,
    difference_text,
    estimate_text,
    number_text,
    p_value,
    rules_mark,
)
from mmhall.results.statistics import Difference

LEGEND = (
    "Yes and no told apart: AUROC of the score of yes against no at the first token, which no threshold changes; below "
    "it, minus the baseline's. + b: the baseline's scores, shifted to say yes as often as the strategy (fitted on the "
    "other half of the pictures); below it, the strategy minus that. "
    '"ranks better": both differences are above 0 (Holm). "only shifts": better than the baseline, not than + b. '
    '"no gain": not better than the baseline. Else "undecided". '
    "The best balanced accuracy a threshold can give is Phi(d' / 2), for normal scores with one variance. d' itself "
    "does not tell ranking from threshold: scores of models are not normal."
)
TURNED = (
    "Answers that turned: from the baseline's outcome to the strategy's (TP and FN of yes questions, FP and TN of no "
    "questions). Unreadable answers, before or now, are a class of their own; they are wrong. The exact McNemar test "
    "takes questions about one picture as independent, unlike the test of the main table."
)
TURNS = ("FN→TP", "FP→TN", "TP→FN", "TN→FP", "right in both", "wrong in both", "unreadable", "gained / lost")


def yesno_sections(evaluation: Evaluation, group: str) -> list[Section]:
    """Return the tables of a group of yes/no questions with at least two strategies; none for others."""
    rows = [row for row in evaluation.evidence if row.group == group]
    ranked = [row for row in rows if row.ranking is not None]
    turned = [row for row in rows if row.turns is not None]
    return ([_ranking_section(ranked)] if ranked else []) + ([_turns_section(turned)] if turned else [])


def yesno_legends(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return what the columns of these tables mean, for the tables that there are."""
    rows = [row for evaluation in evaluations for row in evaluation.evidence]
    legends = {
        LEGEND: any(row.ranking is not None for row in rows),
        TURNED: any(row.turns is not None for row in rows),
    }
    return [legend for legend, shown in legends.items() if shown]


def yesno_record(row: Evidence) -> dict[str, Any]:
    """Return the part of a strategy's evidence on yes/no answers as JSON values."""
    turns, ranking = row.turns, row.ranking
    totals = {} if turns is None else {"gained": turns.gained, "lost": turns.lost, "unreadable": turns.unreadable}
    return {
        "verdict": row.verdict,
        "ranking": ranking and asdict(ranking) | {"shifted_value": _shifted_value(row)},
        "turns": turns and asdict(turns) | totals,
    }


def _ranking_section(rows: Sequence[Evidence]) -> Section:
    first, metric = rows[0], rows[0].metric
    columns = (
        column_name(AUROC),
        column_name(metric),
        f"{first.baseline} + b, as many yes",
        "best balanced accuracy a threshold can give",
        "verdict",
    )
    title = f"{first.benchmark} {first.group}, evidence: yes and no told apart; the baseline is {first.baseline}"
    assert first.ranking is not None
    values = (
        estimate_text(first.ranking.base, AUROC),
        number_text(first.base_value, metric),
        "",
        _percent(first.ranking.base_best_balanced),
    )
    base = Line(first.baseline, (*values, ""), ("",) * len(columns))
    return Section(title, "", columns, (base, *map(_ranking_line, rows)), ())


def _ranking_line(row: Evidence) -> Line:
    ranking, metric = row.ranking, row.metric
    assert ranking is not None
    values = (
        estimate_text(ranking.own, AUROC),
        number_text(row.value, metric),
        number_text(_shifted_value(row), metric) if ranking.shifted is not None else "not run",
        _percent(ranking.best_balanced),
        row.verdict or "not run",
    )
    return Line(
        row.strategy, values, (_compared(ranking.difference, AUROC), "", _compared(ranking.shifted, metric), "", "")
    )


def _turns_section(rows: Sequence[Evidence]) -> Section:
    first = rows[0]
    title = f"{first.benchmark} {first.group}, evidence: answers that turned from those of {first.baseline}"
    title += rules_mark(rows)
    lines = [Line(row.strategy, _turns(row.turns), ("",) * len(TURNS)) for row in rows if row.turns is not None]
    return Section(title, "", TURNS, tuple(lines), ())


def _turns(turns: Turns) -> tuple[str, ...]:
    t = turns
    unreadable = str(t.unreadable)
    if t.became_unreadable or t.became_right:
        unreadable += f": {t.became_right} gained, {t.became_unreadable} lost"
    counts = (t.fn_to_tp, t.fp_to_tn, t.tp_to_fn, t.tn_to_fp, t.both_right, t.both_wrong)
    return (*map(str, counts), unreadable, f"{t.gained} / {t.lost}, {p_value(t.p)}")


def _shifted_value(row: Evidence) -> float | None:
    """Return the figure of the baseline, shifted to as many yes."""
    if row.ranking is None or row.ranking.shifted is None or row.value is None:
        return None
    return row.value - row.ranking.shifted.value


def _compared(difference: Difference | None, metric: Metric) -> str:
    return "" if difference is None else difference_text(difference, metric)


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"
