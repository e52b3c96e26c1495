"""mmhall bench speed: times on a random model, instead of quality on data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def speed(names: Sequence[str], given: Mapping[str, object], *, as_json: bool) -> None:
    """Time every variant on this machine.

    Args:
        names: Benchmarks asked for, speed among them.
        given: Options that only other benchmarks have.
        as_json: Print data instead of tables.

    Raises:
        OptionError: Other benchmarks or their options are given.
    """
    import json
    from dataclasses import asdict
    from datetime import datetime, timezone

    import torch

    from mmhall.benchmarks.timing import grouping, speed as timing
    from mmhall.cli.console import aligned, progress
    from mmhall.errors import OptionError

    if len(names) > 1:
        raise OptionError("bench", "benchmarks", " ".join(names), "speed alone, or others without it")
    for option, value in given.items():
        if value not in (None, []):
            raise OptionError("bench speed", option, value, "left out: it times every strategy on its own model")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = timing.LARGE if device == "cuda" else timing.SMALL
    with progress("timing", timing.runs()) as advance:
        costs = timing.measure(size, device, progress=advance)
    with progress("timing questions about one picture", grouping.runs()) as advance:
        gains = grouping.measure(size, device, progress=advance)
    if as_json:
        print(json.dumps({"variants": list(map(asdict, costs)), "grouping": list(map(asdict, gains))}, indent=1))
        return
    print(aligned(timing.table(costs)))
    print(f"\n{aligned(grouping.table(gains))}\n\n{grouping.describe_questions()}.")
    day = datetime.now(timezone.utc).date()
    what = timing.describe_size(size)
    print(f"\nTime and memory over transformers' own: median and range of {timing.TURNS} turns; {what}.")
    print(f"{day}, {timing.machine(device)}")
