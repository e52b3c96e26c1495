"""The diagnosis as one self-contained HTML page: what it suggests, tables, and plots by layer, head and place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmhall.benchmarks.diagnosis.diagnosis import Diagnosis
from mmhall.benchmarks.diagnosis.figures import Figure
from mmhall.benchmarks.diagnosis.findings import RULES, findings
from mmhall.benchmarks.diagnosis.report import closing, group_sections
from mmhall.benchmarks.diagnosis.svg import curve, heat_map
from mmhall.benchmarks.diagnosis.targets import Targets
from mmhall.files import atomic_path
from mmhall.text import printable

Plots = list[tuple[str, str]]


def write_page(diagnosis: Diagnosis, targets: Targets, setup: Mapping[str, Any], head: str, path: Path) -> None:
    """Write the page of a diagnosis, atomically.

    Args:
        diagnosis: The diagnosis.
        targets: Targets of the model.
        setup: Model, pictures and options.
        head: The same in words.
        path: File to write.

    Raises:
        OSError: The file cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("mmhall.benchmarks.diagnosis", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    page = environment.get_template("page.html").render(
        setup=setup,
        head=head,
        findings=list(findings(diagnosis)),
        sections=list(group_sections(diagnosis, targets)),
        plots=list(_plots(diagnosis)),
        closing=closing(diagnosis, targets),
    )
    with atomic_path(path) as scratch:
        scratch.write_text(page, encoding="utf-8")


def _plots(diagnosis: Diagnosis) -> Iterator[tuple[str, Plots]]:
    """Yield plots under their headings: by place in the caption, by layer, and by head."""
    limits = {rule.mechanism.key: rule.mechanism.present for rule in RULES}
    yield "By place in the caption", [(_title(f), _by_place(f)) for f in diagnosis.figures if f.places]
    by_layer = []
    for figure in diagnosis.figures:
        if figure.layers:
            wanted = limits.get(figure.key)
            line = None if wanted is None else wanted.low if wanted.low is not None else wanted.high
            points = [(str(layer), estimate) for layer, estimate in figure.layers.items()]
            title = _title(figure).removesuffix(": middle layers")
            by_layer.append((title, curve(points, "layer", _scale(figure), line)))
    yield "By decoder layer, with 95 % intervals; dashed: the threshold", [one for one in by_layer if one[1]]
    yield "By head", [(_head_title(f), heat_map(f.heads, _scale(f))) for f in diagnosis.figures if f.heads]


def _by_place(figure: Figure) -> str:
    return curve(list(figure.places), "mention", _scale(figure))


def _scale(figure: Figure) -> float:
    return 100.0 if figure.percent else 1.0


def _title(figure: Figure) -> str:
    return "hallucinated mentions (%)" if figure.places else f"{figure.title}{' (%)' if figure.percent else ''}"


def _head_title(figure: Figure) -> str:
    return f"{figure.by_head or figure.title}{' (%)' if figure.percent else ''}"
