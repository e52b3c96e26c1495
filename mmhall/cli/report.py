"""mmhall report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmhall.benchmarks.runs import Run


def report(
    run: Annotated[Path, typer.Argument(help="Run folder of a bench command.")],
    html: Annotated[Path | None, typer.Option(help="Also write a self-contained page here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Show what a run found; it may still be going on.

    Example: mmhall report runs/first --html first.html
    """
    from mmhall.benchmarks.report.page import write_page
    from mmhall.benchmarks.runs import reopen
    from mmhall.errors import RunError

    opened = reopen(run)
    show(opened, as_json=as_json)
    if html is not None:
        try:
            write_page(opened, opened.evaluate(), html)
        except OSError as error:
            raise RunError(f"{html}: cannot be written: {error.strerror}") from error
        typer.echo(f"wrote {html}", err=True)


def show(run: Run, *, as_json: bool) -> None:
    """Print a run's table, or its data."""
    import json

    from mmhall.benchmarks.report.table import COST, as_data, cost_lines, remarks, sections
    from mmhall.cli.console import aligned

    evaluated = run.evaluate()
    if as_json:
        print(json.dumps(as_data(evaluated, run.store.setup()), indent=1))
        return
    for section in sections(evaluated):
        rows = [("strategy", *section.metrics)]
        for line in section.lines:
            rows.append((line.strategy, *line.values))
            if any(line.differences):
                rows.append(("", *line.differences))
        print(f"{section.title}\n{aligned(rows)}\n")
    print(f"cost\n{aligned([COST, *cost_lines(evaluated)])}\n")
    for remark in remarks(evaluated, run.fitted):
        print(remark)
