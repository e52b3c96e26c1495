"""The command `mmhall reproduce`: run a published protocol on a model, and compare with the published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmhall.cli.console import parse_output_path
from mmhall.cli.loading import loads_plain_model
from mmhall.errors import DataError, OptionError, RunError, UnknownNameError
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.benchmarks.reproduce.data import Given, Located
    from mmhall.benchmarks.reproduce.page import Done
    from mmhall.benchmarks.reproduce.probe import Probe
    from mmhall.benchmarks.reproduce.protocol import Protocol, Step
    from mmhall.benchmarks.reproduce.record import Record


@loads_plain_model
def reproduce(
    model: Annotated[str, typer.Option(help="Model to load: a hub id, a folder, or embedded.")],
    protocol: Annotated[
        str | None, typer.Option(help="Protocol, such as llava-1.5-7b. By default, that of the hub id.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=parse_output_path,
            metavar="DIR",
            help="Folder to write; the same command continues a stopped run. By default, runs/PROTOCOL.",
        ),
    ] = None,
    pope: Annotated[
        str | None, typer.Option(help="POPE's question files: a file, a folder, or hub:ID[@REVISION].")
    ] = None,
    coco: Annotated[
        Path | None, typer.Option(help="COCO's folder with annotations/ and val2014/, or a detection file.")
    ] = None,
    amber: Annotated[Path | None, typer.Option(help="AMBER's folder.")] = None,
    step: Annotated[list[str], typer.Option(help="Run only this step, such as chair-64; repeatable.")] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(help="Use only this many pictures of each step, the first ones.")] = None,
    twins: Annotated[
        int, typer.Option(help="Number of random twins of each strategy that has them, as its controls; 5 is usual.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(help="Number of items to decode together.")] = 16,
    workers: Annotated[int, typer.Option(help="Number of processes that share the work.")] = 1,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Print downloads, answers, time and memory of each step, and do nothing else."),
    ] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Run a published protocol on a model, and print its figures beside the published ones.

    Example: mmhall reproduce --model llava-hf/llava-1.5-7b-hf --coco DIR --amber DIR --plan
    """
    from mmhall.benchmarks.reproduce.data import Given
    from mmhall.benchmarks.reproduce.protocols import protocol_for
    from mmhall.benchmarks.reproduce.record import wanted

    for option, value in {"batch_size": batch_size, "limit": limit, "workers": workers}.items():
        if value is not None and value < 1:
            raise OptionError("reproduce", option, value, "an integer >= 1")
    if twins < 0:
        raise OptionError("reproduce", "twins", twins, "an integer >= 0")
    chosen = protocol_for(protocol, model)
    steps, given = _steps(chosen, step), Given(pope, coco, amber, limit)
    given.check()
    record = wanted(chosen, model, given, twins, loading.revision)
    if plan:
        _print_plan(chosen, steps, given, record, model, batch_size, loading)
        return
    folder = out or Path("runs") / chosen.name
    _run(chosen, steps, given, record, folder, model, batch_size, workers, loading)


def _steps(protocol: Protocol, names: Sequence[str]) -> list[Step]:
    """Return the steps that are asked for; without names, all."""
    known = {step.name: step for step in protocol.steps}
    for name in names:
        if name not in known:
            raise UnknownNameError("step", name, known)
    return [step for step in protocol.steps if not names or step.name in names]


def _print_plan(
    protocol: Protocol,
    steps: Sequence[Step],
    given: Given,
    record: Record,
    model: str,
    batch_size: int,
    loading: LoadOptions,
) -> None:
    from mmhall.benchmarks.reproduce.downloads import downloads
    from mmhall.benchmarks.reproduce.memory import shape_of, widths_of
    from mmhall.benchmarks.reproduce.plan import plan_step
    from mmhall.benchmarks.reproduce.plan_text import format_plan

    needed = downloads(record, steps, given)
    probe = _probe(record, model, loading)
    plans = [plan_step(one, given, record, probe, batch_size) for one in steps]
    shape = shape_of(probe.lvlm) if probe.timed else protocol.shape
    for line in format_plan(protocol, plans, needed, shape, widths_of(loading), batch_size):
        print(line)


def _probe(record: Record, model: str, loading: LoadOptions) -> Probe:
    """Load what is measured: a local model with room for it, else the embedded one, for passes and rows alone."""
    import mmhall
    from mmhall.benchmarks.reproduce.memory import free_memory, local_parameters, widths_of
    from mmhall.benchmarks.reproduce.probe import Probe
    from mmhall.benchmarks.reproduce.record import LOCAL
    from mmhall.models import find_model_path

    if record.revision_from == LOCAL:
        needed, free = local_parameters(find_model_path(model)) * widths_of(loading).weight, free_memory(loading)
        if free is None or needed < free:
            return Probe(mmhall.load(model, tuned=False, **loading.arguments()), timed=True)
    return Probe(mmhall.load("embedded", device="cpu", tuned=False, artifacts=False), timed=False)


def _run(
    protocol: Protocol,
    steps: Sequence[Step],
    given: Given,
    record: Record,
    folder: Path,
    model: str,
    batch_size: int,
    workers: int,
    loading: LoadOptions,
) -> None:
    from mmhall.benchmarks.reproduce.data import dataset_of, locate
    from mmhall.benchmarks.reproduce.downloads import check_disk, downloads
    from mmhall.benchmarks.reproduce.page import make_page, model_warnings, write_page
    from mmhall.benchmarks.reproduce.record import settle

    for warning in model_warnings(protocol, record):
        typer.echo(f"mmhall: {warning}", err=True)
    datasets = [id_ for step in steps if (id_ := dataset_of(step, given)) is not None]
    record = settle(folder, record, datasets)
    check_disk(downloads(record, steps, given))
    asked = {"model": model, "loading": replace(loading, revision=record.revision), "tuned": False}
    asked |= {"twins": record.twins, "batch_size": batch_size, "workers": workers}
    left_out: dict[str, str] = {}
    for step in steps:
        try:
            located = locate(step, given, record.datasets)
        except DataError as error:
            left_out[step.name] = str(error)
            continue
        _run_step(step, located, given, folder / step.name, asked)
    done = _done(protocol, given, record, folder)
    if not done:
        raise RunError(f"{protocol.name}: no step can run: {'; '.join(left_out.values())}")
    page = make_page(protocol, record, done, left_out)
    print(page)
    typer.echo(f"wrote {write_page(folder, page)}", err=True)


def _run_step(step: Step, located: Located, given: Given, folder: Path, asked: Mapping[str, Any]) -> None:
    """Answer what a step has no answers to yet; a finished one is left as it is."""
    from mmhall.benchmarks.reproduce.plan import limit_of
    from mmhall.benchmarks.run.arms import in_order
    from mmhall.benchmarks.run.config import Config
    from mmhall.benchmarks.run.runs import make_strategies
    from mmhall.cli.bench import Team

    built = [located.benchmark(spec) for spec in step.benchmarks]
    methods = make_strategies(step.strategies)
    if _is_finished(folder, [str(one) for one in built], [str(method) for method in methods]):
        return
    typer.echo(f"step {step.name}", err=True)
    config = Config(
        benchmarks=tuple(built),
        strategies=in_order(methods),
        limit=limit_of(step, given),
        data={one.name: located.data for one in built},
        images={one.name: str(located.images) for one in built if located.images is not None},
        **asked,
    )
    team = Team(config)
    with team.check_before_loading(folder):
        team.answer(folder, [(one, located.source(one.name, config.limit)) for one in built])


def _is_finished(folder: Path, benchmarks: Sequence[str], strategies: Sequence[str]) -> bool:
    """Tell whether a folder holds a run of these benchmarks and strategies in which nothing is missing."""
    from mmhall.benchmarks.run.runs import reopen

    try:
        run = reopen(folder)
    except RunError:
        return False
    same = [str(part.benchmark) for part in run.parts] == list(benchmarks) and set(strategies) <= set(run.strategies)
    return same and run.answered == run.expected


def _done(protocol: Protocol, given: Given, record: Record, folder: Path) -> list[Done]:
    """Evaluate every step that has a run in the folder, also of earlier calls."""
    from mmhall.benchmarks.reproduce.data import locate
    from mmhall.benchmarks.reproduce.page import Done
    from mmhall.benchmarks.run.runs import reopen
    from mmhall.results.store import FILE

    done = []
    for step in protocol.steps:
        if (folder / step.name / FILE).is_file():
            run = reopen(folder / step.name)
            done.append(Done(step, run, run.evaluate(), locate(step, given, record.datasets).remarks))
    return done
