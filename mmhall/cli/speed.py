"""The command `mmhall speed`: measure what probes, edits and strategies cost on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def speed(as_json: Annotated[bool, typer.Option("--json", help="Print the times as JSON.")] = False) -> None:
    """Measure the cost of reading and editing attention and of every strategy, on a random model.

    Times and memory are given relative to plain transformers.

    Example: mmhall speed
    """
    import json
    from dataclasses import asdict
    from datetime import datetime, timezone

    import torch

    from mmhall.benchmarks.timing import grouping, speed as timing
    from mmhall.cli.console import align_columns, progress

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = timing.LARGE if device == "cuda" else timing.SMALL
    with progress("timing", timing.runs()) as advance:
        costs = timing.measure(size, device, progress=advance)
    with progress("timing questions about one picture", grouping.runs()) as advance:
        gains = grouping.measure(size, device, progress=advance)
    if as_json:
        print(json.dumps({"variants": list(map(asdict, costs)), "grouping": list(map(asdict, gains))}, indent=1))
        return
    print(align_columns(timing.table(costs)))
    print(f"\n{align_columns(grouping.table(gains))}\n\n{grouping.describe_questions()}.")
    day = datetime.now(timezone.utc).date()
    what = timing.describe_size(size)
    print(f"\nTime and memory over transformers' own: median and range of {timing.TURNS} turns; {what}.")
    print(f"{day}, {timing.machine(device)}")
