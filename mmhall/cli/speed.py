"""The command `mmhall speed`: measure what probes, edits and strategies cost on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def speed(
    strategies: Annotated[
        list[str] | None,
        typer.Argument(help="Strategies to time; by default all, and the parts that strategies are made of."),
    ] = None,
    turns: Annotated[int, typer.Option(help="Number of timed runs of each.", min=1)] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print the times as JSON.")] = False,
) -> None:
    """Measure the cost of strategies, and of reading and editing attention, on a random model.

    Times and memory are given relative to plain transformers.

    Example: mmhall speed vcd opera
    """
    import json
    from dataclasses import asdict
    from datetime import datetime, timezone

    import torch

    from mmhall.benchmarks.timing import grouping, model, speed as timing
    from mmhall.cli.console import align_columns
    from mmhall.progress import progress

    methods = [timing.make_timed(spec) for spec in dict.fromkeys(strategies)] if strategies else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = model.LARGE if device == "cuda" else model.SMALL
    with progress("timing", timing.runs(methods, turns)) as advance:
        costs = timing.measure(size, device, methods, turns, progress=advance)
    gains: list[grouping.Gain] = []
    if methods is None:
        with progress("timing questions about one picture", grouping.runs()) as advance:
            gains = grouping.measure(size, device, progress=advance)
    if as_json:
        print(json.dumps({"variants": list(map(asdict, costs)), "grouping": list(map(asdict, gains))}, indent=1))
        return
    print(align_columns(timing.table(costs)))
    if gains:
        print(f"\n{align_columns(grouping.table(gains))}\n\n{grouping.describe_questions()}.")
    day = datetime.now(timezone.utc).date()
    what = f"{model.describe_request(size)}, {timing.NEW_TOKENS} new tokens"
    print(f"\nTime and memory over transformers' own: median and range of {turns} turns; {what}.")
    print(f"{day}, {timing.machine(device)}")
