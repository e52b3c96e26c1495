"""The command `mmhall compare`: differences between two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[Path, typer.Argument(help="Run folder.")],
    second: Annotated[Path, typer.Argument(help="Another run folder.")],
) -> None:
    """Compare set-up and results of two runs.

    Differences are the second run minus the first, paired on the items that both answered.

    Example: mmhall compare runs/first runs/second
    """
    from mmhall.benchmarks.report.compare import compare as compare_runs
    from mmhall.benchmarks.run.runs import reopen
    from mmhall.cli.console import align_columns
    from mmhall.cli.report import print_sections

    comparison = compare_runs(reopen(first), reopen(second))
    print("set-up")
    if comparison.setup:
        rows = [("what", "first", "second"), *comparison.setup]
        print(align_columns([tuple(cell if len(cell) <= 60 else f"{cell[:57]}..." for cell in row) for row in rows]))
    else:
        print("the same")
    print()
    print_sections(comparison.sections)
    for remark in comparison.remarks:
        print(remark)
