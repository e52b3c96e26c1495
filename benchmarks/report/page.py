"""One self-contained HTML page: table, quality against cost, and scenes with what each strategy said."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from mmhall.benchmarks.base import Benchmark, Item
from mmhall.benchmarks.report.table import COST, Evaluated, cost_lines, remarks, sections
from mmhall.benchmarks.runs import Run
from mmhall.images import open_image

EXAMPLES = 8
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: safe for colour-blind eyes
MARKERS = "os^Dv*"


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an answer; `kind` is "right", "wrong" or "" for plain text."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Example:
    """One picture with what each strategy said about it."""

    picture: str
    objects: str
    answers: tuple[tuple[str, tuple[Piece, ...]], ...]


def write_page(run: Run, evaluated: Evaluated, path: Path) -> None:
    """Write the page of a run."""
    environment = Environment(
        loader=PackageLoader("mmhall.benchmarks.report", "."), autoescape=True, undefined=StrictUndefined
    )
    html = environment.get_template("page.html").render(
        setup=run.store.setup(),
        sections=sections(evaluated),
        cost_columns=COST,
        costs=cost_lines(evaluated),
        remarks=remarks(evaluated, run.fitted),
        plot=plot(evaluated),
        examples=examples(run),
    )
    path.write_text(html, encoding="utf-8")


def plot(evaluated: Evaluated) -> str:
    """Draw each benchmark's primary metric against cost, with intervals, as SVG text."""
    panels = [(part.benchmark, group, e) for part, e in evaluated for group in part.benchmark.groups[-1:] if e.cells]
    figure = Figure(figsize=(4.6 * max(1, len(panels)), 4.4), layout="constrained")
    for number, (benchmark, group, evaluation) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        metric = benchmark.metrics[0]
        cells = [c for c in evaluation.cells if c.group == group and c.metric is metric]
        for index, (cell, cost) in enumerate(zip(cells, evaluation.costs, strict=True)):
            e = cell.estimate
            if e.value is None or e.low is None or e.high is None:
                continue
            axes.errorbar(
                cost.ratio or 1.0,
                100 * e.value,
                [[100 * (e.value - e.low)], [100 * (e.high - e.value)]],
                fmt=MARKERS[(index + index // len(COLOURS)) % len(MARKERS)],  # no two alike
                color=COLOURS[index % len(COLOURS)],
                capsize=4,
                label=cell.strategy,
            )
        axes.set_xlabel("seconds per answer, ratio to the baseline")
        axes.set_ylabel(f"{metric.name} (%), {metric.better} is better")
        axes.set_title(f"{benchmark.name}, {group}", loc="left", fontsize=10)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    if figure.axes:
        shown = figure.axes[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()[written.getvalue().index("<svg") :]


def examples(run: Run) -> list[Example]:
    """Pick the captions on which strategies differ most, and mark what is there and what is not."""
    captioned = next((part for part in run.parts if part.benchmark.name == "chair"), None)
    if captioned is None:
        return []
    benchmark, items = captioned.benchmark, captioned.items
    texts: dict[str, dict[str, str]] = {}
    for row in run.store.rows(benchmark.name):
        texts.setdefault(row.item, {})[row.strategy] = row.text
    complete = [item for item in items if len(texts.get(item.id, {})) == len(run.strategies)]

    def spread(item: Item) -> int:
        wrong = [sum(not right for *_, right in benchmark.mark(item, text)) for text in texts[item.id].values()]
        return max(wrong) - min(wrong)

    chosen = sorted(complete, key=spread, reverse=True)[:EXAMPLES]
    return [
        Example(
            _embedded(captioned.picture(item)),
            ", ".join(item.truth["objects"]),
            tuple((s, tuple(pieces(benchmark, item, texts[item.id][s]))) for s in run.strategies),
        )
        for item in chosen
    ]


def pieces(benchmark: Benchmark, item: Item, text: str) -> Sequence[Piece]:
    """Cut an answer into plain, right and wrong stretches."""
    cut, at = [], 0
    for start, end, right in benchmark.mark(item, text):
        cut += [Piece(text[at:start], ""), Piece(text[start:end], "right" if right else "wrong")]
        at = end
    return [piece for piece in (*cut, Piece(text[at:], "")) if piece.text]


def _embedded(path: Path | None) -> str:
    if path is None:
        return ""
    image = open_image(path)
    image.thumbnail((448, 448))
    written = io.BytesIO()
    image.save(written, "PNG")
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
