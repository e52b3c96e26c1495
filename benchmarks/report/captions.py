"""Tables about captions: what shorter captions reach, hallucination by position and by length, and degeneration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mmhall.benchmarks.evaluation import Evaluation
from mmhall.benchmarks.evidence.captions import COMPARED, CaptionFigures, LengthSlope
from mmhall.benchmarks.evidence.frontier import Frontier
from mmhall.benchmarks.evidence.plain_arms import DELETED
from mmhall.benchmarks.report.sections import Line, Section, p_value
from mmhall.results.statistics import Estimate


def caption_sections(evaluation: Evaluation, group: str) -> list[Section]:
    """Return the tables of a group of captions; none for other groups."""
    shown = [figures for figures in evaluation.captions if figures.group == group]
    if not shown:
        return []
    title = f"{shown[0].benchmark} {group}"
    frontier = evaluation.frontiers.get(group)
    tables = [] if frontier is None else [_plain_arms(frontier, f"{title}, what needs no method")]
    return [*tables, _by_length(shown, title), _by_position(shown, title), _texts(shown, title)]


def _plain_arms(frontier: Frontier, title: str) -> Section:
    """Format the arms, the one with most recall last."""
    scales = frontier.recall.scale, frontier.error.scale
    lines = []
    for arm in sorted(frontier.arms, key=lambda arm: (arm.recall, arm.error)):
        shown = f"{arm.recall * scales[0]:.1f}", f"{arm.error * scales[1]:.1f}", "yes" if arm.is_member else "no"
        lines.append(Line(arm.name, shown, ("",) * len(shown)))
    return Section(title, "", (frontier.recall.name, frontier.error.name, "on the frontier"), tuple(lines), ())


def _by_length(shown: Sequence[CaptionFigures], title: str) -> Section:
    share = shown[0].share.name
    length = next((figures.slope.length for figures in shown if figures.slope is not None), None)
    columns = (
        f"{share} per word (points)",
        f"{share} at {shown[0].text.words if length is None else length:.1f} words",
        "not matched",
    )
    lines = []
    for figures in shown:
        values = (*_slope_texts(figures.slope), f"{figures.unmatched} of {figures.pictures}")
        lines.append(Line(figures.strategy, values, ("", _difference(figures.slope), "")))
    return Section(f"{title}, by length", "", columns, tuple(lines), ())


def _slope_texts(slope: LengthSlope | None) -> tuple[str, str]:
    def text(e: Estimate, digits: int) -> str:
        value, low, high = (math.nan if x is None else 100 * x for x in (e.value, e.low, e.high))
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    return ("n/a", "n/a") if slope is None else (text(slope.slope, 2), text(slope.value, 1))


def _difference(slope: LengthSlope | None) -> str:
    if slope is None or slope.difference is None:
        return ""
    d = slope.difference
    return f"{100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}] {p_value(d.p)}"


def _by_position(shown: Sequence[CaptionFigures], title: str) -> Section:
    most = max(len(figures.hazard) for figures in shown)
    lines = []
    for figures in shown:
        empty = ("",) * (most - len(figures.hazard))
        values = tuple(f"{100 * at.wrong / at.count:.1f}" for at in figures.hazard)
        lines.append(Line(figures.strategy, values + empty, (*(f"of {at.count}" for at in figures.hazard), *empty)))
    columns = tuple(f"mention {position}" for position in range(1, most + 1))
    return Section(f"{title}, hallucinated by position", "", columns, tuple(lines), ())


def _texts(shown: Sequence[CaptionFigures], title: str) -> Section:
    columns = ("distinct-1", "distinct-2", "repeating", "at the limit", "self-BLEU", "words", "sentences")
    base, lines = shown[0].text, []
    for figures in shown:
        own = figures.text
        shares = own.distinct_1, own.distinct_2, own.repeating, own.at_limit, own.self_bleu
        values = (*map(_percent, shares), f"{own.words:.1f}", f"{own.sentences:.1f}")
        poorer = "POORER" if own.poorer_than(base) else ""
        cut_off = "MORE CUT OFF" if own.more_cut_off_than(base) else ""
        lines.append(Line(figures.strategy, values, (poorer, "", "", cut_off, "", "", "")))
    return Section(f"{title}, text", "", columns, tuple(lines), ())


def _percent(share: float) -> str:
    return "n/a" if math.isnan(share) else f"{100 * share:.1f}"


def caption_remarks(evaluation: Evaluation) -> list[str]:
    """Return what the tables of captions mean; nothing without captions."""
    if not evaluation.captions:
        return []
    first = evaluation.captions[0]
    name, share = first.benchmark, first.share.name
    unfiltered = [
        f"{name} {group}: no filters are among what needs no method: how sure the model is of each mention is not "
        f"stored with {first.strategy}'s captions (an older run, imported answers, another rule than the run's)."
        for group, frontier in evaluation.frontiers.items()
        if not any(arm.name.endswith(DELETED) for arm in frontier.arms)
    ]
    return [
        *unfiltered,
        f"{name}, by length: the line through {share} over words, of each strategy's own captions cut to their first "
        "words and uncut: its slope, and its value at the baseline's length. not matched: pictures of which a caption "
        "names nothing, so that neither counts at equal mentions.",
        f"{name}, text, in percent: different words, and pairs of words, of a caption; captions with four words said "
        "three times or more; captions at the token limit; BLEU of each of the first "
        f"{COMPARED} captions against the others. POORER: distinct-1 is more than a tenth below the baseline's. "
        "MORE CUT OFF: more than 5 points more captions are at the limit.",
    ]


def captions_as_data(evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures and frontiers as JSON values."""
    return {
        "figures": [_known(asdict(figures) | {"share": figures.share.name}) for figures in evaluation.captions],
        "frontiers": [
            {
                "group": group,
                "recall": frontier.recall.name,
                "error": frontier.error.name,
                "arms": [asdict(arm) for arm in frontier.arms],
            }
            for group, frontier in evaluation.frontiers.items()
        ],
    }


def _known(value: Any) -> Any:
    """Replace NaN by None, which JSON has."""
    if isinstance(value, dict):
        return {key: _known(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_known(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
