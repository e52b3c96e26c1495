"""mmhall tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmhall.cli.console import some_path
from mmhall.cli.loading import loads_model
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.benchmarks.tune.tuning import Tuned


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
    from mmhall.benchmarks.report.tuning import entry
    from mmhall.benchmarks.tune import tuning
    from mmhall.benchmarks.tune.log import TuningLog
    from mmhall.cli.console import progress
    from mmhall.cli.picture_data import check_data, check_writable, read_or_draw
    from mmhall.model_check import check_model
    from mmhall.strategies.tuned import default_file, open_or_create, read, write

    method = mmhall.strategy(strategy)
    tuning.tries_of(method)
    numbers = {"n": n, "batch_size": batch_size, "max_new_tokens": max_new_tokens}
    check_data("tune", data, images, "a COCO detection file", **numbers)
    file = default_file(model) if apply else out
    check_writable(file)
    if file.exists():
        read(file)
    check_model(model, False, loading)
    with tempfile.TemporaryDirectory() as scratch:
        pictures, source = read_or_draw(data, images, n, seed, Path(scratch), limit=n)
        lvlm = mmhall.load(model, tuned=False, **loading.arguments())
        identity = lvlm.identity()
        open_or_create(file, lvlm.adapter, identity)
        told = {"source": source, "digest": pictures.digest, "seed": seed}
        told |= {"n": len(pictures.pictures), "max_new_tokens": max_new_tokens}
        sheets = tuning.halves(pictures, seed, max_new_tokens)
        about = {"mmhall": mmhall.__version__, "strategy": str(method), **identity, **told}
        log = TuningLog(file.with_name(f"{file.name}.part"), about)
        with progress(f"tuning {method}", tuning.expected(method, sheets)) as advance:
            found = tuning.tune(lvlm, method, sheets, batch_size=batch_size, progress=advance, log=log)
    _show(found)
    for path in [file, *([default_file(model)] if not apply and _wanted(found, model) else [])]:
        held = open_or_create(path, lvlm.adapter, identity)
        held["strategies"][method.tuned_as] = entry(found, told)
        write(path, held)
        print(f"\nwrote {path}\n{_use(model, strategy, path, usual=path != out)}")
    log.close()


def _wanted(found: Tuned, model: str) -> bool:
    """Ask whether what helps is to be used from now on, where somebody is there to be asked."""
    import sys

    asked = found.over_greedy.low > 0 and sys.stdin.isatty()
    return asked and typer.confirm(f"\nUse these values for {model} from now on, unless told otherwise?")


def _show(found: Tuned) -> None:
    """Print every candidate, the comparison on the other half, and the verdict."""
    from mmhall.benchmarks.report.tuning import COLUMNS, gain_text, held_lines, sheet_text, tried_lines
    from mmhall.benchmarks.tune.objective import OBJECTIVE
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
