"""mmhall compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[Path, typer.Argument(help="Run folder.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Say what differs between two runs, in their set-up and in what came out.

    Differences are the second run minus the first, paired on the items both answered.

    Example: mmhall compare runs/first runs/second
    """
    from mmhall.benchmarks.report.compare import compare as compared
    from mmhall.benchmarks.run.runs import reopen
    from mmhall.cli.console import align_columns
    from mmhall.cli.report import print_sections

    found = compared(reopen(first), reopen(second))
    print("set-up")
    if found.setup:
        rows = [("what", "first", "second"), *found.setup]
        print(align_columns([tuple(cell if len(cell) <= 60 else f"{cell[:57]}..." for cell in row) for row in rows]))
    else:
        print("the same")
    print()
    print_sections(found.sections)
    for remark in found.remarks:
        print(remark)
