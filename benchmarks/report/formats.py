"""The first screen of a report as text of a given width, and its table as Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from typing import Any

from mmhall.benchmarks.evaluation import Cell
from mmhall.benchmarks.report.summary import LEGEND, SIGNS, Entry, Head, Summary
from mmhall.benchmarks.report.table import Evaluated

WIDTH = 100
_LONGEST = 28  # characters of a strategy in the first column; longer ones have a line of their own
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "✓": r"$\checkmark$",
    "✗": r"$\times$",
    "·": r"$\cdot$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "Δ": r"$\Delta$",
    "→": r"$\rightarrow$",
    "<": r"$<$",
    ">": r"$>$",
}


def as_text(summary: Summary, width: int = WIDTH) -> str:
    """Format the first screen: what the run says, the table in blocks that fit the width, and notes."""
    blocks = [
        _wrapped(summary.title, width),
        "\n".join(_wrapped(text, width) for text in summary.lead),
        *("\n".join(lines) for lines in _blocks(summary, width)),
        _wrapped(LEGEND, width, "") if len(summary.lines) > 1 else "",
        "\n".join(_statements(summary, width)),
        "\n".join(_wrapped(text, width) for text in (*summary.constant, *summary.notes)),
    ]
    return "\n\n".join(block for block in blocks if block)


def as_markdown(summary: Summary) -> str:
    """Format the table as Markdown, every figure with its interval and difference."""
    heads = ["", *(_markdown(" ".join(filter(None, (h.benchmark, h.group, h.name)))) for h in summary.heads)]
    rows = [[f"`{strategy}`", *(_markdown(_marked(e.long, e)) for e in own)] for strategy, own in summary.lines.items()]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_latex(summary: Summary) -> str:
    r"""Format the table for LaTeX; it needs the packages booktabs and amssymb.

    A cell has its figure, the interval and the difference below it, in a nested table.
    """
    heads = ["", *(_nested([h.benchmark, h.group, h.name]) for h in summary.heads)]
    rows = [
        [rf"\texttt{{{latex(strategy)}}}", *(_nested(_marked(entry.long, entry).split("; ")) for entry in own)]
        for strategy, own in summary.lines.items()
    ]
    body = [" & ".join(heads) + r" \\ \midrule", *(" & ".join(row) + r" \\" for row in rows)]
    columns = "l" * len(heads)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"])


def as_csv(evaluated: Evaluated) -> str:
    """Format every evaluated figure as CSV, a line each, with its interval, its difference and p-values."""
    lines = records(evaluated)
    written = io.StringIO()
    writer = csv.DictWriter(written, list(lines[0]) if lines else ["benchmark"])
    writer.writeheader()
    writer.writerows(lines)
    return written.getvalue()


def records(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Return every figure as a flat record: shares as fractions, differences from the baseline beside them."""
    return [_record(cell) for _, evaluation in evaluated for cell in (*evaluation.cells, *evaluation.means)]


def _record(cell: Cell) -> dict[str, Any]:
    found = cell.difference
    return {
        "benchmark": cell.benchmark,
        "group": cell.group,
        "metric": cell.metric.name,
        "strategy": cell.strategy,
        "value": cell.estimate.value,
        "low": cell.estimate.low,
        "high": cell.estimate.high,
        "difference": None if found is None else found.value,
        "difference_low": None if found is None else found.low,
        "difference_high": None if found is None else found.high,
        "p": None if found is None else found.p,
        "p_corrected": None if found is None else found.holm,
    }


def latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _nested(lines: Sequence[str]) -> str:
    shown = [latex(line) for line in lines if line]
    if len(shown) < 2:
        return "".join(shown)
    return r"\begin{tabular}[t]{@{}l@{}}" + r" \\ ".join(shown) + r"\end{tabular}"


def _markdown(text: str) -> str:
    return text.replace("|", r"\|")


def _marked(text: str, entry: Entry) -> str:
    return f"{text}{SIGNS[entry.mark]}"


def _wrapped(text: str, width: int, indent: str = "  ") -> str:
    return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def _statements(summary: Summary, width: int) -> list[str]:
    """Format what the run says: a strategy, and below it a line or more for each benchmark."""
    lines = list[str]()
    for number, one in enumerate(summary.statements):
        if number == 0 or summary.statements[number - 1].strategy != one.strategy:
            lines.append(one.strategy)
        lines.append(
            textwrap.fill(
                f"{one.place}: {one.text}", width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
        )
    return lines


def _blocks(summary: Summary, width: int) -> list[list[str]]:
    """Format the table; columns of one benchmark stay in a block where they fit."""
    names = [name for name in summary.lines if len(name) <= _LONGEST]
    first = max(map(len, ("strategy", *names)))
    widths = [_column_width(summary, number) for number in range(len(summary.heads))]
    blocks: list[list[int]] = []
    for group in _by_benchmark(summary.heads):
        room = width - first - sum(2 + widths[n] for n in blocks[-1]) if blocks else 0
        if blocks and sum(2 + widths[number] for number in group) <= room:
            blocks[-1] += group
            continue
        blocks.append([])
        for number in group:
            if blocks[-1] and first + sum(2 + widths[n] for n in (*blocks[-1], number)) > width:
                blocks.append([])
            blocks[-1].append(number)
    return [_block(summary, [(number, widths[number]) for number in block], first) for block in blocks]


def _by_benchmark(heads: Sequence[Head]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for number, head in enumerate(heads):
        groups.setdefault(head.benchmark, []).append(number)
    return list(groups.values())


def _block(summary: Summary, columns: Sequence[tuple[int, int]], first: int) -> list[str]:
    heads = [textwrap.wrap(summary.heads[number].name, width) for number, width in columns]
    high = max(map(len, heads))
    lines = _group_lines([summary.heads[number] for number, _ in columns], [width for _, width in columns], first)
    for row in range(high):
        cells = [head[row] if row < len(head) else "" for head in heads]
        lines.append(_line("strategy" if row == high - 1 else "", first, cells, columns))
    for strategy, entries in summary.lines.items():
        cells = [_marked(entries[number].short, entries[number]) for number, _ in columns]
        if len(strategy) > first:
            lines.append(strategy)
        lines.append(_line(strategy if len(strategy) <= first else "", first, cells, columns))
    return lines


def _group_lines(heads: Sequence[Head], widths: Sequence[int], first: int) -> list[str]:
    """Format the two lines above the names of columns: benchmarks, and groups, each once over its columns."""
    lines = []
    for texts in ([head.benchmark for head in heads], [f"{head.benchmark}\0{head.group}" for head in heads]):
        line = " " * first
        for number, text in enumerate(texts):
            start = first + 2 * (number + 1) + sum(widths[:number])
            if text and (number == 0 or texts[number - 1] != text):
                line = f"{line.ljust(start)}{text.rpartition(chr(0))[2]}"
        lines.append(line.rstrip())
    return [line for line in lines if line]


def _line(name: str, first: int, cells: Sequence[str], columns: Sequence[tuple[int, int]]) -> str:
    padded = [cell.ljust(width) for cell, (_, width) in zip(cells, columns, strict=True)]
    return "  ".join([name.ljust(first), *padded]).rstrip()


def _column_width(summary: Summary, number: int) -> int:
    """Return the width of a column; the first of a group has room for the group's name."""
    head, heads = summary.heads[number], summary.heads
    cells = [_marked(own[number].short, own[number]) for own in summary.lines.values()]
    alone = [other for other in heads if (other.benchmark, other.group) == (head.benchmark, head.group)] == [head]
    names = [head.benchmark, head.group] if alone else []
    return max(map(len, (*head.name.split(), *cells, *names)))
