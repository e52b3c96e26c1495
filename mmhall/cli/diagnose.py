"""The command `mmhall diagnose`: how a model hallucinates, and which mechanisms it has."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmhall.cli.console import parse_output_path
from mmhall.cli.loading import loads_plain_model
from mmhall.cli.picture_data import DRAWN
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.benchmarks.diagnosis.diagnosis import Diagnosis
    from mmhall.benchmarks.diagnosis.targets import Targets

WIDTH = 100
SCENES, SEED, CONFLICT, KIND = 200, 4000, 0.5, "usual"


@loads_plain_model
def diagnose(
    model: Annotated[str, typer.Argument(help="Model to load: embedded, a folder, or a hub id.")] = "embedded",
    scenes: Annotated[int, typer.Option(help="Number of scenes to draw.")] = SCENES,
    seed: Annotated[
        int, typer.Option(help="Seed of the scenes and questions; runs, tuning and fits draw theirs with other seeds.")
    ] = SEED,
    conflict: Annotated[
        float | None,
        typer.Option(help=f"Fraction of scenes that break co-occurrence. By default, the targets', else {CONFLICT}."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help=f"Kind of scenes: usual or hard. By default, the targets', else {KIND}.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="COCO detection file, or a list of pictures and objects. By default, scenes are drawn."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder with the pictures of --data. By default, the file's folder.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only this many pictures, the first ones.")] = None,
    targets: Annotated[
        Path | None, typer.Option(help="File of targets. By default, targets.json in the model's folder, if there.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum number of tokens in a caption.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Number of questions to answer together.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=parse_output_path,
            metavar="FILE",
            help="Also write the diagnosis to a file: as JSON if its name ends in .json; as a page with plots, and "
            "JSON beside it, if in .html; else as text.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Measure how a model hallucinates, and which mechanisms that strategies act on it has, with intervals.

    Example: mmhall diagnose embedded --scenes 200 --out diagnosis.html
    """
    import json
    import tempfile

    import mmhall
    from mmhall.benchmarks.diagnosis import diagnosis as measuring, report
    from mmhall.benchmarks.diagnosis.targets import read_targets, targets_of
    from mmhall.cli.picture_data import check_data, check_writable, read_or_draw
    from mmhall.model_check import check_model
    from mmhall.progress import progress

    numbers = {"scenes": scenes, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    numbers |= {} if limit is None else {"limit": limit}
    check_data("diagnose", data, images, "a COCO detection file", **numbers)
    for file in _files(out):
        check_writable(file)
    aims = targets_of(model) if targets is None else read_targets(targets)
    check_model(model, False, loading)
    wanted = {"conflict": conflict, "kind": kind}
    drawn = {"conflict": CONFLICT, "kind": KIND, **aims.scenes, **{k: v for k, v in wanted.items() if v is not None}}
    with tempfile.TemporaryDirectory() as scratch:
        count = scenes if limit is None else min(scenes, limit)
        pictures, source = read_or_draw(data, images, count, seed, Path(scratch), limit, **drawn)
        lvlm = mmhall.load(model, tuned=False, **loading.arguments())
        with progress("diagnosing", measuring.expected(pictures, seed)) as advance:
            found = measuring.diagnose(
                lvlm, pictures, seed=seed, batch_size=batch_size, max_new_tokens=max_new_tokens, progress=advance
            )
        options = {"seed": seed, "max_new_tokens": max_new_tokens, **(drawn if data is None else {})}
        setup = {"mmhall": mmhall.__version__, **lvlm.identity(), "source": source, "pictures": found.pictures}
        setup |= {"pictures_sha256": pictures.digest, **options}
    head = _head(found, setup)
    text = _text(found, aims, head)
    content = json.dumps(report.as_data(found, aims, setup), indent=1)
    print(content if as_json else text)
    for file in _files(out):
        if file.suffix == ".html":
            from mmhall.benchmarks.diagnosis.page import write_page

            write_page(found, aims, setup, head, file)
        else:
            file.write_text((content if file.suffix == ".json" else text) + "\n", encoding="utf-8")


def _files(out: Path | None) -> list[Path]:
    """Return the files to write: beside a page also its JSON."""
    if out is None:
        return []
    return [out, out.with_suffix(".json")] if out.suffix == ".html" else [out]


def _head(diagnosis: Diagnosis, setup: Mapping[str, Any]) -> str:
    """Return model, pictures and options in words."""
    source = setup["source"] if setup["source"] == DRAWN else f"pictures of {setup['source']}"
    options = "".join(f", {name} {setup[name]}" for name in ("kind", "conflict", "seed") if name in setup)
    head = f"{setup['model']}, {setup['dtype']} on {setup['device']}: {setup['pictures']} {source}{options}; greedy"
    return f"{head}, {diagnosis.questions} yes/no questions."


def _text(diagnosis: Diagnosis, targets: Targets, head: str) -> str:
    """Return the diagnosis as text of at most 100 columns."""
    from mmhall.benchmarks.diagnosis.report import closing, sections, suggestions
    from mmhall.cli.console import align_columns

    parts = [textwrap.fill(head, WIDTH)]
    for section in sections(diagnosis, targets):
        notes = [textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in section.notes]
        parts.append("\n".join([section.title, align_columns(list(section.rows)), *notes]))
    told = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in suggestions(diagnosis)]
    parts.append("\n".join(["what this suggests", *told]))
    parts.append("\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in closing(diagnosis, targets)))
    return "\n\n".join(parts)
