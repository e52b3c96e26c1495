"""The report as one self-contained HTML page: the first screen, and folded below it every table and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmhall.benchmarks.report.capability import REMARK, capability_section
from mmhall.benchmarks.report.examples import examples
from mmhall.benchmarks.report.forest import draw_forest
from mmhall.benchmarks.report.frontier_plot import draw_frontiers
from mmhall.benchmarks.report.plots import draw_tables, plot_against_cost
from mmhall.benchmarks.report.settings import setting_lines
from mmhall.benchmarks.report.summary import LEGEND, SIGNS, by_strategy, summarise
from mmhall.benchmarks.report.table import COST, Evaluated, cost_lines, remarks, sections
from mmhall.benchmarks.report.templates import environment
from mmhall.benchmarks.run.runs import Run
from mmhall.files import atomic_path
from mmhall.results.capability import Capability


def write_page(
    runs: Sequence[tuple[Run, Evaluated]], path: Path, capabilities: Mapping[str, Capability] = MappingProxyType({})
) -> None:
    """Write a page about runs, atomically.

    Args:
        runs: Runs with their evaluation.
        path: File to write.
        capabilities: Strategy to its capability, for a single run.

    Raises:
        OSError: The file cannot be written.
    """
    shown = [_page_data(run, evaluated, capabilities) for run, evaluated in runs]
    settings = setting_lines([run for run, _ in runs])
    page = (
        environment()
        .get_template("page.html")
        .render(runs=shown, cost_columns=COST, settings=settings, legend=LEGEND, signs=SIGNS)
    )
    with atomic_path(path) as scratch:
        scratch.write_text(page, encoding="utf-8")


def _page_data(run: Run, evaluated: Evaluated, capabilities: Mapping[str, Capability]) -> dict[str, Any]:
    """Return the template variables of one run."""
    tables = sections(evaluated)
    beside = [capability_section(run, evaluated, capabilities)] if capabilities else []
    summary = summarise(run, evaluated)
    return {
        "setup": run.current_setup,
        "summary": summary,
        "statements": by_strategy(summary),
        "forest": draw_forest(summary.leading),
        "parts": run.parts,
        "sections": [*tables, *beside],
        "costs": cost_lines(evaluated),
        "remarks": [*remarks(evaluated, run.fitted, run.left_out), *([] if capabilities else [REMARK])],
        "plot": plot_against_cost(evaluated),
        "side_by_side": [*draw_frontiers(evaluated), *draw_tables(tables)],
        "examples": [(part.benchmark.name, chosen) for part in run.parts if (chosen := examples(run, part))],
    }
