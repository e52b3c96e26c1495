"""mmhall fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmhall.cli.console import some_path
from mmhall.cli.loading import loads_plain_model
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.strategies import PairSet
    from mmhall.strategies.artifacts import Artifact

_SHOWN = 8  # numbers of a list


@loads_plain_model
def fit(
    strategy: Annotated[str, typer.Argument(help="One that learns, with options where it has some.")],
    model: Annotated[str, typer.Option(help="embedded, a folder, or a hub id.")] = "embedded",
    n: Annotated[int, typer.Option("--n", help="Pairs: scenes to draw, or the first that --data allows.")] = 60,
    seed: Annotated[int, typer.Option(help="Seeds scenes, what is replaced in a text, and shuffled labels.")] = 1000,
    data: Annotated[
        Path | None,
        typer.Option(
            help="COCO detection file, CSV picture list, JSON lists of objects, or JSON Lines of pairs (.jsonl); by "
            "default scenes are drawn."
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of its pictures; by default the file's own.")] = None,
    captions: Annotated[
        Path | None, typer.Option(help="COCO captions of the pictures, to be used instead of a made sentence.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=some_path,
            metavar="FILE",
            help="Where to write, to be given with --artifacts; by default STRATEGY.safetensors.",
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write where the model is looked for when loaded: used from now on.")
    ] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Let a strategy learn what it needs to know about a model, from faithful and hallucinated texts about pictures.

    Texts are made from pictures with known objects, or come as JSON Lines with picture, faithful and hallucinated.
    Use other pictures than those you evaluate on.

    Example: mmhall fit STRATEGY --model embedded --apply
    """
    import tempfile

    import mmhall
    from mmhall.cli.picture_data import check_data, check_writable
    from mmhall.errors import OptionError
    from mmhall.fitting import fit as fit_strategy, make_learner
    from mmhall.model_check import check_model
    from mmhall.strategies.artifacts import artifact_files, check_target, default_folder

    method = make_learner(strategy)
    if apply and out is not None:
        raise OptionError("fit", "out", str(out), "left out with --apply, which says where to write")
    check_data(
        "fit",
        data,
        images,
        "a COCO detection file, a CSV picture list, JSON lists of objects, or JSON Lines of pairs",
        n=n,
    )
    _check_captions(data, captions)
    file = default_folder(model) / f"{method.name}.safetensors" if apply else out or Path(f"{method.name}.safetensors")
    for one in artifact_files(file):
        check_writable(one)
    check_target(file, method.name)
    check_model(model, False, loading)
    with tempfile.TemporaryDirectory() as scratch:
        pairs = _pairs(data, images, captions, n, seed, Path(scratch))
        lvlm = mmhall.load(model, tuned=False, **loading.arguments())
        typer.echo(f"fitting {method} on {len(pairs.pairs)} pairs", err=True)
        artifact = fit_strategy(lvlm, method, pairs, seed)
    print(f"{artifact.facts['options']} on {model}: {artifact.origin}\n")
    _show(artifact)
    artifact.write(file)
    print(f"\nwrote {' and '.join(map(str, artifact_files(file)))}, sha256 {artifact.digest}")
    print(_use(model, method.name, file, usual=apply))


def _is_of_pairs(data: Path | None) -> bool:
    return data is not None and data.suffix.lower() == ".jsonl"


def _check_captions(data: Path | None, captions: Path | None) -> None:
    """Refuse captions that are not there, or that nothing could be done with.

    Raises:
        OptionError: There are no pictures that they could be of.
        DataError: They are not there.
    """
    from mmhall.errors import DataError, OptionError
    from mmhall.files import no_file

    if captions is None:
        return
    if data is None or _is_of_pairs(data):
        raise OptionError("fit", "captions", str(captions), "given together with pictures and their objects as --data")
    reason = no_file(captions)
    if reason is not None:
        raise DataError(f"{captions}: {reason}; give a COCO captions file")


def _pairs(data: Path | None, images: Path | None, captions: Path | None, n: int, seed: int, scratch: Path) -> PairSet:
    """Read pairs, or make them from pictures that are read or drawn."""
    from mmhall.benchmarks.data.pairs import make_pairs, read_pairs
    from mmhall.benchmarks.data.pictures import read_captions
    from mmhall.cli.picture_data import read_or_draw

    if data is not None and _is_of_pairs(data):
        return read_pairs(data, images or data.parent, n)
    pictures, source = read_or_draw(data, images, n, seed, scratch, limit=None)
    if captions is None:
        return make_pairs(pictures, source, seed, n)
    return make_pairs(pictures, f"{source} with {captions.name}", seed, n, read_captions(captions))


def _show(artifact: Artifact) -> None:
    """Print what was found: the strategy's numbers, one a line, and what to know of the pairs."""
    from mmhall.cli.console import aligned

    numbers = artifact.facts["numbers"]
    if numbers:
        print(aligned([(f"  {name}", _written(value)) for name, value in numbers.items()]))
    for remark in artifact.facts["remarks"]:
        print(f"  remark: {remark}")


def _written(value: Any) -> str:
    """Write a number, or several."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_written(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join([*map(_written, value[:_SHOWN]), *(["..."] if len(value) > _SHOWN else [])])
    return str(value)


def _use(model: str, strategy: str, file: Path, *, usual: bool) -> str:
    """Say how to use what was written."""
    if usual:
        told = f'mmhall.load("{model}") and `--model {model}` use it for {strategy} from now on'
        return f"{told}; with artifacts=False and `--artifacts none` they do not"
    return f'use it with mmhall.load("{model}", artifacts="{file}") or `--model {model} --artifacts {file}`'
