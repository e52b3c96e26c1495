"""The result of tuning: as a table, and as the entry of the model's file."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import mmhall
from mmhall.benchmarks.report.sections import p_value
from mmhall.benchmarks.tune.objective import OBJECTIVE, Figures, Gain, Sheet
from mmhall.benchmarks.tune.tuning import Tuned

COLUMNS = ("", "strategy", "objective", "accuracy", "F1", "CHAIR_i", "recall", "words", "changed", "behind the best")


def tried_lines(tuned: Tuned) -> list[tuple[str, ...]]:
    """Format greedy and every candidate on the search half, in the columns of `COLUMNS`; "*" marks the chosen one."""
    lines = [("", "greedy", *_figures(tuned.greedy[0]), "")]
    for candidate in tuned.tried:
        mark = "*" if candidate is tuned.chosen else ""
        name = str(candidate.method) + (" (defaults)" if candidate is tuned.tried[0] else "")
        behind = f"{candidate.shortfall.value * 100:.1f}, standard error {candidate.shortfall.error * 100:.1f}"
        lines.append((mark, name, *_figures(candidate.figures), behind))
    blank = ("",) * (len(COLUMNS) - 3)
    return lines + [("", str(method), *blank, f"failed: {why}") for method, why in tuned.failed.items()]


def held_out_lines(tuned: Tuned) -> list[tuple[str, ...]]:
    """Format greedy, defaults and chosen options on the held-out half, in the columns of `COLUMNS` without the last."""
    return [
        ("", "greedy", *_figures(tuned.greedy[1])),
        ("", f"{tuned.tried[0].method} (defaults)", *_figures(tuned.default)),
        ("*", str(tuned.chosen.method), *_figures(tuned.judged)),
    ]


def gain_text(gain: Gain) -> str:
    """Format a difference of objectives in percentage points, with its interval and p-value."""
    return f"{gain.value * 100:+.1f} [{gain.low * 100:+.1f}, {gain.high * 100:+.1f}] {p_value(gain.p)}"


def sheet_text(sheet: Sheet) -> str:
    """Format the size of a half."""
    return f"{len(sheet.pictures)} pictures, {sheet.questions} questions, {sheet.captions} captions"


def entry(tuned: Tuned, pictures: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of the strategy in the model's file.

    Args:
        tuned: Result of tuning.
        pictures: Description of the pictures.
    """
    return {
        "options": tuned.options,
        "verdict": tuned.verdict,
        "p": round(tuned.p, 4),
        "asked": str(tuned.requested),
        "chosen": str(tuned.chosen.method),
        "defaults": str(tuned.tried[0].method),
        "defaults_from": dict(tuned.origin),
        "date": str(datetime.now(timezone.utc).date()),
        "mmhall": mmhall.__version__,
        "pictures": pictures,
        "objective": OBJECTIVE,
        "search": {
            "size": sheet_text(tuned.searched),
            "tried": len(tuned.tried) + len(tuned.failed),
            "greedy": _rounded(tuned.greedy[0]),
            "defaults": _rounded(tuned.tried[0].figures),
            "chosen": _rounded(tuned.chosen.figures),
        },
        "held_out": {
            "size": sheet_text(tuned.held_out),
            "greedy": _rounded(tuned.greedy[1]),
            "defaults": _rounded(tuned.default),
            "chosen": _rounded(tuned.judged),
            "chosen_minus_greedy": _rounded(tuned.over_greedy),
            "chosen_minus_defaults": _rounded(tuned.over_default),
        },
    }


def _figures(f: Figures) -> tuple[str, ...]:
    shares = (f.objective, f.accuracy, f.f1, 1 - f.precision, f.recall)
    return *(f"{share * 100:.1f}" for share in shares), f"{f.words:.1f}", f"{f.changed * 100:.1f}"


def _rounded(figures: Figures | Gain) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(figures).items()}
