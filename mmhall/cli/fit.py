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
    from mmhall.strategies import PairSet, QuestionSet
    from mmhall.strategies.artifacts import Artifact

SAMPLES, SEED = 150, 1000  # of drawn scenes; runs draw theirs with other seeds
_MAX_NUMBERS = 8  # of a list


@loads_plain_model
def fit(
    strategy: Annotated[str, typer.Argument(help="Strategy to fit, with its options if needed.")],
    model: Annotated[str, typer.Option(help="Model to load: embedded, a folder, or a hub id.")] = "embedded",
    n: Annotated[int, typer.Option("--n", help="Number of pairs of texts, or of questions, to learn from.")] = SAMPLES,
    seed: Annotated[int, typer.Option(help="Seed of scenes, replaced objects and shuffled labels.")] = SEED,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data: a COCO detection file, CSV picture list, JSON lists of objects, or JSON Lines of pairs or "
            "questions (.jsonl). By default, scenes are drawn."
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
    """Fit a strategy to a model, on pairs of faithful and hallucinated texts about pictures, or on yes/no questions.

    What the strategy learns from is made from pictures with known objects, or read from JSON Lines: picture, faithful,
    hallucinated; or image, text, label. Use other pictures than those that you evaluate on.

    Example: mmhall fit STRATEGY --model embedded --apply
    """
    import tempfile

    import mmhall
    from mmhall.cli.picture_data import check_data, check_writable
    from mmhall.errors import OptionError
    from mmhall.fitting import fit as fit_strategy, make_learner
    from mmhall.model_check import check_model
    from mmhall.strategies import QuestionSet
    from mmhall.strategies.artifacts import artifact_files, check_target, default_folder

    method = make_learner(strategy)
    if apply and out is not None:
        raise OptionError("fit", "out", str(out), "left out with --apply, which says where to write")
    check_data(
        "fit",
        data,
        images,
        f"a COCO detection file, a CSV picture list, JSON lists of objects, or JSON Lines of {method.learns_from}",
        n=n,
    )
    _check_captions(data, captions, method.learns_from)
    file = default_folder(model) / f"{method.name}.safetensors" if apply else out or Path(f"{method.name}.safetensors")
    for path in artifact_files(file):
        check_writable(path)
    check_target(file, method.name)
    check_model(model, False, loading)
    with tempfile.TemporaryDirectory() as scratch:
        if method.learns_from == QuestionSet.unit:
            pairs: PairSet | QuestionSet = _read_or_make_questions(data, images, n, seed, Path(scratch))
        else:
            pairs = _read_or_make_pairs(data, images, captions, n, seed, Path(scratch))
        lvlm = mmhall.load(model, tuned=False, **loading.arguments())
        typer.echo(f"fitting {method} on {len(pairs.samples)} {pairs.unit}", err=True)
        artifact = fit_strategy(lvlm, method, pairs, seed)
    print(f"{artifact.facts['options']} on {model}: {artifact.origin}\n")
    _print_numbers(artifact)
    artifact.write(file)
    print(f"\nwrote {' and '.join(map(str, artifact_files(file)))}, sha256 {artifact.digest}")
    print(_usage(model, method.name, file, usual=apply))


def _is_read_line_by_line(data: Path | None) -> bool:
    return data is not None and data.suffix.lower() == ".jsonl"


def _check_captions(data: Path | None, captions: Path | None, learns_from: str) -> None:
    """Check the captions file.

    Raises:
        OptionError: --data does not give pictures for the captions, or the strategy learns from something else.
        DataError: The file does not exist.
    """
    from mmhall.errors import DataError, OptionError
    from mmhall.files import why_not_a_file

    if captions is None:
        return
    if learns_from != "pairs":
        raise OptionError("fit", "captions", str(captions), f"left out for a strategy that learns from {learns_from}")
    if data is None or _is_read_line_by_line(data):
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

    if data is not None and _is_read_line_by_line(data):
        return read_pairs(data, images or data.parent, n)
    pictures, source = read_or_draw(data, images, n, seed, scratch, limit=None)
    if captions is None:
        return make_pairs(pictures, source, seed, n)
    return make_pairs(pictures, f"{source} with {captions.name}", seed, n, read_captions(captions))


def _read_or_make_questions(data: Path | None, images: Path | None, n: int, seed: int, scratch: Path) -> QuestionSet:
    """Read yes/no questions, or make two about each picture that is read or drawn."""
    from mmhall.benchmarks.data.questions import make_yes_no_questions, read_yes_no_questions
    from mmhall.cli.picture_data import read_or_draw

    if data is not None and _is_read_line_by_line(data):
        return read_yes_no_questions(data, images or data.parent, n)
    pictures, source = read_or_draw(data, images, (n + 1) // 2, seed, scratch, limit=None)
    return make_yes_no_questions(pictures, source, seed, n)


def draw_samples(learns_from: str, scratch: Path) -> PairSet | QuestionSet:
    """Make the usual number of pairs or questions about drawn scenes, whose pictures are written to a folder.

    Args:
        learns_from: As `LearnedStrategy.learns_from`.
        scratch: The folder.
    """
    from mmhall.strategies import QuestionSet

    if learns_from == QuestionSet.unit:
        return _read_or_make_questions(None, None, SAMPLES, SEED, scratch)
    return _read_or_make_pairs(None, None, None, SAMPLES, SEED, scratch)


def _print_numbers(artifact: Artifact) -> None:
    """Print the numbers of a fit, one on each line, and the remarks on its pairs."""
    from mmhall.cli.console import align_columns

    numbers = artifact.facts["numbers"]
    if numbers:
        print(align_columns([(f"  {name}", _format(value)) for name, value in numbers.items()]))
    for line in _describe_held_out(artifact):
        print(line)
    for remark in artifact.facts["remarks"]:
        print(f"  remark: {remark}")


def _describe_held_out(artifact: Artifact) -> list[str]:
    """Describe the test on pairs or questions that were held out of the fit."""
    from mmhall.cli.console import align_columns

    report = artifact.facts.get("held_out")
    if report is None:
        return ["", "  none held out: a fit on fewer than 5 is not tested"]
    rows: list[tuple[str, ...]] = []
    for way, name in (("plain", "plain"), ("strategy", artifact.strategy), ("twin", "random twin")):
        if way in report:
            entry = report[way]
            change = "change" in entry and f"margin {entry['change']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]"
            rows.append((f"    {name}", f"{entry['right']:.3f}", change or ""))
    unit, right = ("pair", "whose faithful text is the likelier one")
    if "questions" in artifact.facts["data"]:
        unit, right = ("question", "with the right answer")
    held_out = f"1 held-out {unit}" if report["samples"] == 1 else f"{report['samples']} held-out {unit}s"
    return ["", f"  on {held_out}: share {right}; change of the margin in nats, 95 % interval", align_columns(rows)]


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
