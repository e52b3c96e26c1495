"""The command `mmhall report`: print the results of runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmhall.cli.console import parse_output_path

if TYPE_CHECKING:
    from mmhall.benchmarks.report.sections import Section
    from mmhall.benchmarks.report.table import Evaluated
    from mmhall.benchmarks.run.runs import Run


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, written by `mmhall bench`.")],
    html: Annotated[
        Path | None,
        typer.Option(parser=parse_output_path, metavar="FILE", help="Also write the report as one HTML page."),
    ] = None,
    read_as: Annotated[
        list[str],
        typer.Option(help="Apply another rule to the stored answers, such as \"pope(rule='official')\"; repeatable."),
    ] = [],  # noqa: B006
    relabel: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read POPE's answers a second time with other labels, such as RePOPE's: a file, or a folder of files, "
            "in POPE's format.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Print the results of runs, finished or not.

    Example: mmhall report runs/first --html first.html
    """
    from mmhall.benchmarks.report.page import write_page
    from mmhall.benchmarks.run.relabel import read_again
    from mmhall.benchmarks.run.runs import reopen
    from mmhall.errors import RunError

    opened = [reopen(run).read_as(read_as) for run in runs]
    evaluated: list[tuple[Run, Evaluated]] = [(run, run.evaluate()) for run in opened]
    if relabel is not None:
        evaluated = [(run, read_again(run, evaluation, relabel)) for run, evaluation in evaluated]
    for number, (run, evaluation) in enumerate(evaluated):
        if len(opened) > 1 and not as_json:
            print(f"{'' if number == 0 else chr(10)}== {run.store.path.parent}\n")
        print_run(run, evaluation, as_json=as_json)
    if html is not None:
        try:
            write_page(evaluated, html)
        except OSError as error:
            raise RunError(f"{html}: cannot be written: {error.strerror}") from error
        typer.echo(f"wrote {html}", err=True)


def print_run(run: Run, evaluated: Evaluated, *, as_json: bool) -> None:
    """Print the results of a run as tables, or as JSON."""
    import json

    from mmhall.benchmarks.report.table import COST, as_data, cost_lines, remarks, sections
    from mmhall.cli.console import align_columns

    if as_json:
        print(json.dumps(as_data(evaluated, run.current_setup), indent=1))
        return
    print_sections(sections(evaluated))
    print(f"cost\n{align_columns([COST, *cost_lines(evaluated)])}\n")
    for remark in remarks(evaluated, run.fitted, run.left_out):
        print(remark)


def print_sections(sections: Sequence[Section]) -> None:
    """Print tables, with the differences from the baseline below the values of each strategy."""
    from mmhall.cli.console import align_columns

    for section in sections:
        rows = [("strategy", *section.metrics)]
        for line in section.lines:
            rows.append((line.strategy, *line.values))
            below = [text.splitlines() for text in line.differences]
            rows += [("", *texts) for texts in zip_longest(*below, fillvalue="")]
        print(f"{section.title}\n{align_columns(rows)}\n")
