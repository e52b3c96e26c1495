"""The command `mmhall export`: write the answers of a run for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmhall.cli.console import parse_output_path


def export(
    run: Annotated[Path, typer.Argument(help="Run folder, written by `mmhall bench`.")],
    to: Annotated[
        Path,
        typer.Option(
            parser=parse_output_path, metavar="FILE", help="File to write; its name ends in .jsonl, .parquet or .csv."
        ),
    ],
    benchmark: Annotated[str | None, typer.Option(help="Export the answers of this benchmark only.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Write the answers of a run, finished or not, one record for each item and strategy.

    Example: mmhall export runs/first --to answers.jsonl
    """
    from mmhall.benchmarks.run.runs import reopen
    from mmhall.benchmarks.run.samples import COLUMNS, flatten, samples
    from mmhall.results.export import write_records, writer_for

    writer_for(to, force=force)
    records = samples(reopen(run), benchmark)
    nested = to.suffix.lower() == ".jsonl"
    write_records(records if nested else list(map(flatten, records)), to, COLUMNS, force=force)
    failed = sum(record["error"] is not None for record in records)
    typer.echo(f"wrote {len(records)} answers{f', {failed} of them failures,' if failed else ''} to {to}", err=True)
