"""The table of a comparison, for a spreadsheet (CSV), a text (Markdown) or a paper (LaTeX): a line for each answer."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmhall.benchmarks.report.formats import latex
from mmhall.errors import OptionError
from mmhall.results.export import escape_formula
from mmhall.text import printable

Records = Sequence[Mapping[str, Any]]
_PLAIN = ("strategy", "state", "error", "text", "tokens", "seconds", "prompt")
_SHORT = ("strategy", "made up", "named", "right", "tokens", "passes per token")
_SIGN = re.compile(r"[\\`*_|<>\[\]]")


def rows(records: Any, model: str) -> list[dict[str, Any]]:
    """Return a row for each answer, by column; what is not known is None.

    Args:
        records: Column records, as a visitor sends them; see `mmhall.display.records`.
        model: Name of the model.

    Raises:
        OptionError: These are no column records.
    """
    try:
        return [_row(record) | {"model": model} for record in records]
    except (KeyError, TypeError, AttributeError) as error:
        raise OptionError("demo", "columns", type(records).__name__, "records as /compare returns them") from error


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Write all columns as CSV; a cell that a spreadsheet would read as a formula gets a leading apostrophe."""
    file = io.StringIO(newline="")
    lines = csv.writer(file)
    lines.writerow(table[0] if table else [])
    lines.writerows([escape_formula(cell) for cell in row.values()] for row in table)
    return file.getvalue()


def as_markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Write the columns that compare strategies, and the answers, as Markdown."""
    heads = (*_SHORT, "text")
    lines = [
        heads,
        ["---"] * len(heads),
        *([_SIGN.sub(r"\\\g<0>", _cell(row[head])) for head in heads] for row in table),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_latex(table: Sequence[Mapping[str, Any]]) -> str:
    """Write the columns that compare strategies for LaTeX, with the package booktabs."""
    body = [" & ".join(latex(_cell(row[head])) for head in _SHORT) + r" \\" for row in table]
    heads = " & ".join(_SHORT) + r" \\ \midrule"
    return "\n".join([r"\begin{tabular}{lllrrr}", r"\toprule", heads, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    objects, known, verdict = record["objects"], record["known"] is not None, record["verdict"] or {"right": None}
    told: dict[str, Any] = {name: _text(record[name]) for name in _PLAIN}
    return told | {
        "passes per token": None if record["passes_per_token"] is None else round(record["passes_per_token"], 2),
        "named": _list(objects["named"]),
        "made up": _list(objects["made_up"]) if known else None,
        "missing": _list(objects["missing"]) if known else None,
        "right": {True: "yes", False: "no", None: None}[verdict["right"]],
    }


def _list(names: Any) -> str:
    return ", ".join(printable(name) for name in names)


def _text(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _cell(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())
