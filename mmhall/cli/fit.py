"""The command `mmhall fit`: fit what a strategy learns about a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmhall.cli.console import parse_output_path
from mmhall.cli.loading import loads_plain_model
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.strategies import PairSet
    from mmhall.strategies.artifacts import Artifact

PAIRS, SEED = 60, 1000  # of drawn scenes; runs draw theirs with other seeds
_MAX_NUMBERS = 8  # of a list


@loads_plain_model
def fit(
    strategy: Annotated[str, typer.Argument(help="Strategy to fit, with its options if needed.")],
    model: Annotated[str, typer.Option(help="Model to load: embedded, a folder, or a hub id.")] = "embedded",
    n: Annotated[int, typer.Option("--n", help="Number of pairs of texts, from drawn scenes or from --data.")] = PAIRS,
    seed: Annotated[int, typer.Option(help="Seed of scenes, replaced objects and shuffled labels.")] = SEED,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data: a COCO detection file, CSV picture list, JSON lists of objects, or JSON Lines of pairs "
            "(.jsonl). By default, scenes are drawn."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder with the pictures of --data. By default, the file's folder.")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="COCO captions file, to use instead of a generated sentence.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=parse_output_path,
            metavar="FILE",
            help="File to write, for --artifacts. By default, STRATEGY.safetensors.",
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write to the model's own folder: loaded with the model from now on.")
    ] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Fit a strategy to a model, on pairs of faithful and hallucinated texts about pictures.

    The pairs are made from pictures with known objects, or read from JSON Lines: picture, faithful, hallucinated.
    Use other pictures than those that you evaluate on.

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
    for path in artifact_files(file):
        check_writable(path)
    check_target(file, method.name)
    check_model(model, False, loading)
    with tempfile.TemporaryDirectory() as scratch:
        pairs = _read_or_make_pairs(data, images, captions, n, seed, Path(scratch))
        lvlm = mmhall.load(model, tuned=False, **loading.arguments())
        typer.echo(f"fitting {method} on {len(pairs.pairs)} pairs", err=True)
        artifact = fit_strategy(lvlm, method, pairs, seed)
    print(f"{artifact.facts['options']} on {model}: {artifact.origin}\n")
    _print_numbers(artifact)
    artifact.write(file)
    print(f"\nwrote {' and '.join(map(str, artifact_files(file)))}, sha256 {artifact.digest}")
    print(_usage(model, method.name, file, usual=apply))


def _holds_pairs(data: Path | None) -> bool:
    return data is not None and data.suffix.lower() == ".jsonl"


def _check_captions(data: Path | None, captions: Path | None) -> None:
    """Check the captions file.

    Raises:
        OptionError: --data does not give pictures for the captions.
        DataError: The file does not exist.
    """
    from mmhall.errors import DataError, OptionError
    from mmhall.files import why_not_a_file

    if captions is None:
        return
    if data is None or _holds_pairs(data):
        raise OptionError("fit", "captions", str(captions), "given together with pictures and their objects as --data")
    reason = why_not_a_file(captions)
    if reason is not None:
        raise DataError(f"{captions}: {reason}; give a COCO captions file")


def _read_or_make_pairs(
    data: Path | None, images: Path | None, captions: Path | None, n: int, seed: int, scratch: Path
) -> PairSet:
    """Read pairs of texts, or make them from pictures that are read or drawn."""
    from mmhall.benchmarks.data.pairs import make_pairs, read_pairs
    from mmhall.benchmarks.data.pictures import read_captions
    from mmhall.cli.picture_data import read_or_draw

    if data is not None and _holds_pairs(data):
        return read_pairs(data, images or data.parent, n)
    pictures, source = read_or_draw(data, images, n, seed, scratch, limit=None)
    if captions is None:
        return make_pairs(pictures, source, seed, n)
    return make_pairs(pictures, f"{source} with {captions.name}", seed, n, read_captions(captions))


def draw_pairs(scratch: Path) -> PairSet:
    """Make the usual pairs of texts about drawn scenes, whose pictures are written to a folder."""
    return _read_or_make_pairs(None, None, None, PAIRS, SEED, scratch)


def _print_numbers(artifact: Artifact) -> None:
    """Print the numbers of a fit, one on each line, and the remarks on its pairs."""
    from mmhall.cli.console import align_columns

    numbers = artifact.facts["numbers"]
    if numbers:
        print(align_columns([(f"  {name}", _format(value)) for name, value in numbers.items()]))
    for remark in artifact.facts["remarks"]:
        print(f"  remark: {remark}")


def _format(value: Any) -> str:
    """Format a number, or several."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format(entry)}" for name, entry in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join([*map(_format, value[:_MAX_NUMBERS]), *(["..."] if len(value) > _MAX_NUMBERS else [])])
    return str(value)


def _usage(model: str, strategy: str, file: Path, *, usual: bool) -> str:
    """Return how to use the artifact; `usual`: it is in the model's own folder."""
    if usual:
        usage = f'mmhall.load("{model}") and `--model {model}` use it for {strategy} from now on'
        return f"{usage}; with artifacts=False and `--artifacts none` they do not"
    return f'use it with mmhall.load("{model}", artifacts="{file}") or `--model {model} --artifacts {file}`'
