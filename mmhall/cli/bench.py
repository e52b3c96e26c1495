"""mmhall bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def bench(
    benchmarks: Annotated[list[str], typer.Argument(help="Such as: pope chair; or: speed.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder; the same command goes on with a stopped run. Speed needs none.")
    ] = None,
    model: Annotated[str, typer.Option(help="embedded, a folder, or a hub id.")] = "embedded",
    strategy: Annotated[list[str], typer.Option(help="Repeatable; the first is the baseline.")] = ["greedy"],  # noqa: B006
    data: Annotated[Path | None, typer.Option(help="COCO detection file; by default scenes are drawn.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of its pictures; by default the file's own.")] = None,
    scenes: Annotated[int | None, typer.Option(help="Number of scenes to draw; 200 by default.")] = None,
    conflict: Annotated[
        float | None, typer.Option(help="Share of scenes that break co-occurrence; 0.5 by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Seeds scenes and questions.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Items decoded together.")] = 16,
    tuned: Annotated[
        str | None,
        typer.Option(help='File of options tuned for the model, or "none"; by default where `mmhall tune` puts it.'),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Compare strategies on benchmarks, with intervals and paired tests.

    Example: mmhall bench pope chair --strategy greedy --strategy vcd --out runs/first

    "mmhall bench speed" times reading, steering and every strategy on a random model against transformers.
    """
    import mmhall
    from mmhall.benchmarks.base import Source
    from mmhall.benchmarks.runner import run as run_benchmark
    from mmhall.benchmarks.runs import make_benchmarks, make_strategies, start
    from mmhall.cli.console import progress, tuned_option
    from mmhall.cli.report import show
    from mmhall.errors import OptionError

    names = list(dict.fromkeys(benchmarks))
    if "speed" in names:
        given: dict[str, object] = {
            "out": out,
            "data": data,
            "images": images,
            "scenes": scenes,
            "conflict": conflict,
            "limit": limit,
            "tuned": tuned,
        }
        given |= {
            "strategy": None if strategy == ["greedy"] else strategy,
            "model": None if model == "embedded" else model,
        }
        for option, value in given.items():
            if value is not None:
                raise OptionError(
                    "bench speed", option, str(value), "left out: it times every strategy on its own model"
                )
        _speed(names, as_json=as_json)
        return
    asked = make_benchmarks(names)
    if out is None:
        raise OptionError("bench", "out", None, "a run folder, such as runs/first")
    chosen = make_strategies(strategy)
    for option, value in {"batch_size": batch_size, "limit": limit, "scenes": scenes}.items():
        if value is not None and value < 1:
            raise OptionError("bench", option, value, "an integer >= 1")
    if data is not None and (scenes is not None or conflict is not None):
        raise OptionError("bench", "scenes and conflict", (scenes, conflict), "left out with --data")
    if data is None and images is not None:
        raise OptionError("bench", "images", str(images), "given together with --data")
    drawn = None
    if data is None and any(benchmark.drawn for benchmark in asked):
        drawn = _scenes(out, 200 if scenes is None else scenes, seed, 0.5 if conflict is None else conflict)
    sources = [(b, Source(data or (drawn if b.drawn else None), images, limit, seed)) for b in asked]
    lvlm = mmhall.load(model, tuned=tuned_option(tuned))
    opened = start(out, lvlm, benchmarks=sources, strategies=chosen, batch_size=batch_size)
    try:
        for part in opened.parts:
            with progress(part.benchmark.name, len(part.items) * len(chosen)) as advance:
                run_benchmark(lvlm, part, chosen, opened.store, batch_size=batch_size, progress=advance)
    except KeyboardInterrupt:
        typer.echo(
            f"mmhall: stopped; {opened.answered} of {opened.expected} answers are kept in {out}, "
            "the same command goes on from there",
            err=True,
        )
        raise typer.Exit(2) from None
    show(opened, as_json=as_json)


def _scenes(out: Path, count: int, seed: int, conflict: float) -> Path:
    """Draw the run's scenes into its folder, unless they lie there already."""
    from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
    from mmhall.cli.console import progress

    folder = out / f"scenes-{count}-{seed}-{conflict:g}"
    if not (folder / ANNOTATIONS).is_file():
        with progress("drawing scenes", count) as advance:
            for _ in write_scenes(folder, count, seed, conflict):
                advance(1)
    return folder / ANNOTATIONS


def _speed(names: list[str], *, as_json: bool) -> None:
    """Time every variant on this machine."""
    import json
    from dataclasses import asdict
    from datetime import datetime, timezone

    import torch

    from mmhall.benchmarks import speed
    from mmhall.cli.console import aligned, progress
    from mmhall.errors import OptionError

    if len(names) > 1:
        raise OptionError("bench", "benchmarks", " ".join(names), "speed alone, or others without it")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = speed.LARGE if device == "cuda" else speed.SMALL
    with progress("timing", speed.runs()) as advance:
        costs = speed.measure(size, device, progress=advance)
    if as_json:
        print(json.dumps([asdict(cost) for cost in costs], indent=1))
        return
    print(aligned(speed.table(costs)))
    day = datetime.now(timezone.utc).date()
    print(f"\nTime and memory over transformers' own: median and range of {speed.TURNS} turns; {speed.told(size)}.")
    print(f"{day}, {speed.machine(device)}")
