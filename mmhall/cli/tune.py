"""mmhall tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmhall.cli.console import some_path
from mmhall.cli.loading import loads_model
from mmhall.load_options import LoadOptions

if TYPE_CHECKING:
    from mmhall.benchmarks.pictures import PictureSet
    from mmhall.benchmarks.tuning import Tuned


@loads_model
def tune(
    strategy: Annotated[str, typer.Argument(help='Such as vhr, "vhr+vcd", or "vhr(layers=\'50%:\')".')],
    model: Annotated[str, typer.Option(help="embedded, a folder, or a hub id.")] = "embedded",
    n: Annotated[int, typer.Option("--n", help="Pictures: scenes to draw, or the first of --data.")] = 60,
    seed: Annotated[int, typer.Option(help="Seeds scenes, questions, and the halves.")] = 1000,
    data: Annotated[Path | None, typer.Option(help="COCO detection file; by default scenes are drawn.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of its pictures; by default the file's own.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens a caption may have.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Items decoded together.")] = 16,
    out: Annotated[
        Path, typer.Option(parser=some_path, metavar="FILE", help="File to write, to be given with --tuned.")
    ] = Path("tuned.json"),
    apply: Annotated[
        bool, typer.Option("--apply", help="Write where the model is looked for when loaded: used from now on.")
    ] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Choose a strategy's layers and strengths for a model, on pictures with known objects.

    One half of the pictures is searched, the other says whether it helps. What is found is written to --out; it is
    used wherever that file is named, or everywhere with --apply. The same command goes on with a stopped search.

    Example: mmhall tune vhr --model embedded --n 60
    """
    import tempfile

    import mmhall
    from mmhall.benchmarks import tuning
    from mmhall.benchmarks.report.tuning import entry
    from mmhall.benchmarks.tuning_log import TuningLog
    from mmhall.cli.console import progress
    from mmhall.model_check import check_model
    from mmhall.tuned import place, read, started, write

    method = mmhall.strategy(strategy)
    tuning.tries_of(method)
    _check(data, images, n=n, batch_size=batch_size, max_new_tokens=max_new_tokens)
    file = place(model) if apply else out
    _writable(file)
    if file.exists():
        read(file)
    check_model(model, False, loading)
    with tempfile.TemporaryDirectory() as scratch:
        pictures, told = _pictures(data, images, n, seed, Path(scratch))
        lvlm = mmhall.load(model, tuned=False, **loading.arguments())
        identity = lvlm.identity()
        started(file, lvlm.adapter, identity)
        told |= {"seed": seed, "n": len(pictures.pictures), "max_new_tokens": max_new_tokens}
        sheets = tuning.halves(pictures, seed, max_new_tokens)
        about = {"mmhall": mmhall.__version__, "strategy": str(method), **identity, **told}
        log = TuningLog(file.with_name(f"{file.name}.part"), about)
        with progress(f"tuning {method}", tuning.expected(method, sheets)) as advance:
            found = tuning.tune(lvlm, method, sheets, batch_size=batch_size, progress=advance, log=log)
    _show(found)
    for path in [file, *([place(model)] if not apply and _wanted(found, model) else [])]:
        held = started(path, lvlm.adapter, identity)
        held["strategies"][method.tuned_as] = entry(found, told)
        write(path, held)
        print(f"\nwrote {path}\n{_use(model, strategy, path, usual=path != out)}")
    log.close()


def _wanted(found: Tuned, model: str) -> bool:
    """Ask whether what helps is to be used from now on, where somebody is there to be asked."""
    import sys

    asked = found.over_greedy.low > 0 and sys.stdin.isatty()
    return asked and typer.confirm(f"\nUse these values for {model} from now on, unless told otherwise?")


def _pictures(
    data: Path | None, images: Path | None, n: int, seed: int, scratch: Path
) -> tuple[PictureSet, dict[str, Any]]:
    """Read the first pictures of a data set, or draw some; also say which they are."""
    from mmhall.benchmarks.pictures import read_coco, read_pictures
    from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
    from mmhall.cli.console import progress

    if data is not None:
        pictures = read_pictures(data, images or data.parent, n)
        return pictures, {"source": data.name, "digest": pictures.digest}
    with progress("drawing scenes", n) as advance:
        for _ in write_scenes(scratch, n, seed):
            advance(1)
    pictures = read_coco(scratch / ANNOTATIONS, scratch)
    return pictures, {"source": "drawn scenes", "digest": pictures.digest}


def _check(data: Path | None, images: Path | None, **numbers: int) -> None:
    """Refuse options that do not fit, before anything expensive is done."""
    from mmhall.errors import DataError, OptionError
    from mmhall.files import no_file

    for option, value in numbers.items():
        if value < 1:
            raise OptionError("tune", option, value, "an integer >= 1")
    if data is None and images is not None:
        raise OptionError("tune", "images", str(images), "given together with --data")
    if data is not None and (reason := no_file(data)) is not None:
        raise DataError(f"{data}: {reason}; give a COCO detection file")
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: no such folder; give the folder of the pictures with --images")


def _writable(file: Path) -> None:
    """Refuse a file that cannot be written, before anything expensive is done.

    Raises:
        DataError: It is a folder, or lies where none can be made.
    """
    import tempfile

    from mmhall.errors import DataError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
        written = not file.is_dir()
    except OSError:
        written = False
    if not written:
        raise DataError(f"{file}: cannot be written; choose another file with --out")


def _show(found: Tuned) -> None:
    """Print every candidate, the comparison on the other half, and the verdict."""
    from mmhall.benchmarks.objective import OBJECTIVE
    from mmhall.benchmarks.report.tuning import COLUMNS, gain_text, held_lines, sheet_text, tried_lines
    from mmhall.cli.console import aligned

    print(f"objective: {OBJECTIVE}; percent\n")
    print(f"search: {sheet_text(found.searched)}\n{aligned([COLUMNS, *tried_lines(found)])}\n")
    print(f"other half: {sheet_text(found.held)}\n{aligned([COLUMNS[:-1], *held_lines(found)])}\n")
    print(f"chosen minus greedy    {gain_text(found.over_greedy)}")
    print(f"chosen minus defaults  {gain_text(found.over_default)}")
    print("\n* chosen: of the candidates within one standard error of the best, the nearest to the defaults, then the")
    print("weakest. changed: answers that differ from greedy's. Brackets: 95 %, paired bootstrap by picture.")
    print(f"\n{found.chosen.method}: {found.verdict}")


def _use(model: str, strategy: str, file: Path, *, usual: bool) -> str:
    """Say how to use what was written."""
    if usual:
        told = f'mmhall.load("{model}") and `--model {model}` use it for {strategy} from now on'
        return f"{told}; with tuned=False and `--tuned none` they do not"
    return f'use it with mmhall.load("{model}", tuned="{file}") or `--model {model} --tuned {file}`'
