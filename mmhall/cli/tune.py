"""The command `mmhall tune`: choose layers and strengths of a strategy for a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmhall.cli.console import parse_output_path
from mmhall.cli.loading import loads_model
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.benchmarks.tune.tuning import Tuned


@loads_model
def tune(
    strategy: Annotated[str, typer.Argument(help='Strategy, such as vhr, "vhr+vcd", or "vhr(layers=\'50%:\')".')],
    model: Annotated[str, typer.Option(help="Model to load: embedded, a folder, or a hub id.")] = "embedded",
    n: Annotated[int, typer.Option("--n", help="Number of pictures, from drawn scenes or from --data.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of scenes, questions, and the two halves.")] = 1000,
    data: Annotated[Path | None, typer.Option(help="COCO detection file. By default, scenes are drawn.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder with the pictures of --data. By default, the file's folder.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum number of tokens in a caption.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Number of items to decode together.")] = 16,
    out: Annotated[
        Path, typer.Option(parser=parse_output_path, metavar="FILE", help="File to write, for --tuned.")
    ] = Path("tuned.json"),
    apply: Annotated[
        bool, typer.Option("--apply", help="Write to the model's own file: loaded with the model from now on.")
    ] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Choose a strategy's layers and strengths for a model, on pictures with known objects.

    The search uses one half of the pictures; the other half tests whether the result helps. The result is written to
    --out, for use with --tuned; with --apply, it is used from now on. The same command continues a stopped search.

    Example: mmhall tune vhr --model embedded
    """
    import tempfile

    import mmhall
    from mmhall.benchmarks.report.tuning import entry
    from mmhall.benchmarks.tune import tuning
    from mmhall.benchmarks.tune.log import TuningLog
    from mmhall.cli.picture_data import check_data, check_writable, read_or_draw
    from mmhall.model_check import check_model
    from mmhall.progress import progress
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
        facts = {"source": source, "digest": pictures.digest, "seed": seed}
        facts |= {"n": len(pictures.pictures), "max_new_tokens": max_new_tokens}
        sheets = tuning.halves(pictures, seed, max_new_tokens)
        setup = {"mmhall": mmhall.__version__, "strategy": str(method), **identity, **facts}
        log = TuningLog(file.with_name(f"{file.name}.part"), setup)
        with progress(f"tuning {method}", tuning.expected(method, sheets)) as advance:
            result = tuning.tune(lvlm, method, sheets, batch_size=batch_size, progress=advance, log=log)
    _print_result(result)
    for path in [file, *([default_file(model)] if not apply and _confirm_use(result, model) else [])]:
        content = open_or_create(path, lvlm.adapter, identity)
        content["strategies"][method.tuned_as] = entry(result, facts)
        write(path, content)
        print(f"\nwrote {path}\n{_usage(model, strategy, path, usual=path != out)}")
    log.close()


def _confirm_use(result: Tuned, model: str) -> bool:
    """Ask whether to use the values from now on, if they help and stdin is a terminal."""
    import sys

    can_ask = result.helps and sys.stdin.isatty()
    return can_ask and typer.confirm(f"\nUse these values for {model} from now on?")


def _print_result(result: Tuned) -> None:
    """Print all candidates, the comparison on the other half, and the verdict."""
    from mmhall.benchmarks.report.tuning import COLUMNS, gain_text, held_out_lines, sheet_text, tried_lines
    from mmhall.benchmarks.tune.objective import OBJECTIVE
    from mmhall.cli.console import align_columns

    print(f"objective: {OBJECTIVE}; percent\n")
    print(f"search: {sheet_text(result.searched)}\n{align_columns([COLUMNS, *tried_lines(result)])}\n")
    print(f"other half: {sheet_text(result.held_out)}\n{align_columns([COLUMNS[:-1], *held_out_lines(result)])}\n")
    print(f"chosen minus greedy    {gain_text(result.over_greedy)} ({result.p:.2g} for {len(result.tried)} candidates)")
    print(f"chosen minus defaults  {gain_text(result.over_default)}")
    print("\n* chosen: of the candidates within one standard error of the best, the nearest to the defaults, then the")
    print("weakest. changed: answers that differ from greedy's. Brackets: 95 %, paired bootstrap by picture; p: paired")
    print("permutation by picture, in parentheses times the number of candidates, which decides.")
    print(f"\n{result.chosen.method}: {result.verdict}")


def _usage(model: str, strategy: str, file: Path, *, usual: bool) -> str:
    """Return how to use the file; `usual`: it is the model's own file."""
    if usual:
        usage = f'mmhall.load("{model}") and `--model {model}` use it for {strategy} from now on'
        return f"{usage}; with tuned=False and `--tuned none` they do not"
    return f'use it with mmhall.load("{model}", tuned="{file}") or `--model {model} --tuned {file}`'
