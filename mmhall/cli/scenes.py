"""The command `mmhall scenes`: draw pictures with known objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmhall.cli.console import parse_output_path


def scenes(
    out: Annotated[
        Path,
        typer.Option(parser=parse_output_path, metavar="DIR", help="Folder to write pictures and annotations.json to."),
    ],
    n: Annotated[int, typer.Option("--n", help="Number of scenes.")] = 500,
    seed: Annotated[int, typer.Option(help="The same seed draws the same scenes, byte for byte.")] = 0,
    conflict: Annotated[float, typer.Option(help="Fraction of scenes that break co-occurrence, 0 to 1.")] = 0.5,
    kind: Annotated[
        str, typer.Option(help="usual, or hard: objects hard to see, and pairs that the model embedded/prior expects.")
    ] = "usual",
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing scenes.")] = False,
) -> None:
    """Draw pictures with known objects, annotated in COCO's format.

    Example: mmhall scenes --n 500 --seed 7 --kind hard --out scenes
    """
    from mmhall.benchmarks.scenes import write_scenes
    from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, picture_name
    from mmhall.errors import DataError
    from mmhall.progress import progress

    for name in (ANNOTATIONS, picture_name(0)):
        if not force and (out / name).exists():
            raise DataError(f"{out / name}: is there already; give another folder, or --force to overwrite it")
    with progress("drawing scenes", n) as advance:
        for _ in write_scenes(out, n, seed, conflict, kind):
            advance(1)
    typer.echo(str(out / "annotations.json"))
