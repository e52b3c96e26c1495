"""mmhall bench."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmhall.cli.console import some_path
from mmhall.cli.loading import loads_model
from mmhall.errors import DataError, OptionError
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.benchmarks.base import Benchmark, Source
    from mmhall.benchmarks.run.runs import Run
    from mmhall.strategies import Strategy


@loads_model
def bench(
    benchmarks: Annotated[list[str], typer.Argument(help="Such as: pope chair; \"pope(rule='official')\"; or: speed.")],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=some_path,
            metavar="DIR",
            help="Run folder; the same command goes on with a stopped run. Speed needs none.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="embedded, a folder, or a hub id.")] = "embedded",
    strategy: Annotated[list[str], typer.Option(help="Repeatable; the first is the baseline.")] = ["greedy"],  # noqa: B006
    data: Annotated[
        list[str],
        typer.Option(
            help="What to ask about: a file or folder, Parquet included, or hub:ID[@REVISION]; with several "
            "benchmarks also NAME=PATH, repeatable. By default scenes are drawn."
        ),
    ] = [],  # noqa: B006
    images: Annotated[
        list[str], typer.Option(help="Folder of its pictures, or NAME=FOLDER; by default the data's own.")
    ] = [],  # noqa: B006
    scenes: Annotated[int | None, typer.Option(help="Number of scenes to draw; 200 by default.")] = None,
    conflict: Annotated[
        float | None, typer.Option(help="Share of scenes that break co-occurrence; 0.5 by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Seeds scenes and questions.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Items decoded together.")] = 16,
    workers: Annotated[int, typer.Option(help="Processes that share the work.")] = 1,
    gpus_per_worker: Annotated[int, typer.Option(help="GPUs of each process, over which its model is spread.")] = 1,
    engine: Annotated[str, typer.Option(help='"local", or "ray": workers on a Ray cluster.')] = "local",
    address: Annotated[str, typer.Option(help="Of the Ray cluster.")] = "auto",
    tuned: Annotated[
        str | None,
        typer.Option(help='File of options tuned for the model, or "none"; by default where `mmhall tune` puts it.'),
    ] = None,
    max_errors: Annotated[
        int | None, typer.Option(help="Exit with 1 where more answers failed than this; by default they are told.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Compare strategies on benchmarks, with intervals and paired tests.

    Example: mmhall bench pope chair --strategy greedy --strategy vcd --out runs/first

    "mmhall bench speed" times reading, steering and every strategy on a random model against transformers.
    """
    from mmhall.benchmarks.run.runs import make_benchmarks, make_strategies
    from mmhall.cli.console import tuned_option
    from mmhall.cli.report import show
    from mmhall.cli.speed import speed

    names = list(benchmarks)
    if "speed" in names:
        given: dict[str, object] = {
            "out": out,
            "data": data,
            "images": images,
            "scenes": scenes,
            "conflict": conflict,
            "limit": limit,
        }
        given |= {"tuned": tuned, "workers": workers - 1 or None, "engine": None if engine == "local" else engine}
        given |= {"strategy": strategy if strategy != ["greedy"] else None}
        given |= {"model": model if model != "embedded" else None, **loading.given()}
        speed(names, given, as_json=as_json)
        return
    asked, chosen = make_benchmarks(names), make_strategies(strategy)
    if out is None:
        raise OptionError("bench", "out", None, "a run folder, such as runs/first")
    numbers = {"batch_size": batch_size, "limit": limit, "scenes": scenes, "workers": workers}
    _check({**numbers, "gpus_per_worker": gpus_per_worker}, engine, data, images, (scenes, conflict), max_errors)
    found, options = _found(asked, data, images), tuned_option(tuned)
    cluster = address if engine == "ray" else None
    team = _Team(model, options, loading.over(gpus_per_worker), workers, gpus_per_worker, cluster)
    with team.checked(out):
        sources = _sources(asked, found, lambda: _scenes(out, scenes, seed, conflict), limit, seed)
        opened = team.answer(out, sources, chosen, batch_size)
    evaluated = opened.evaluate()
    show(opened, evaluated, as_json=as_json)
    _bound(sum(sum(evaluation.failed.values()) for _, evaluation in evaluated), max_errors)


@dataclass(frozen=True, slots=True)
class _Team:
    """Who answers: a model and how it is loaded, in this process, in several, or on a Ray cluster.

    Attributes:
        model: As `mmhall.load` takes it.
        tuned: As `mmhall.load` takes it.
        loading: The other options that it takes.
        workers: How many processes.
        gpus: GPUs of each.
        cluster: Address of the cluster; None: this machine.
    """

    model: str
    tuned: str | Literal[False] | None
    loading: LoadOptions
    workers: int
    gpus: int
    cluster: str | None

    @contextmanager
    def checked(self, out: Path) -> Iterator[None]:
        """Check all that can be checked before scenes are drawn and weights are read; keep the cluster connected."""
        from mmhall.benchmarks.run.cluster import connect
        from mmhall.benchmarks.run.workers import worker_environment
        from mmhall.model_check import check_model
        from mmhall.results.store import Store

        Store.check(out)
        if self.cluster is None and self.workers > 1:
            worker_environment(0, self.workers, self.gpus)  # refuses more GPUs than there are
        with nullcontext() if self.cluster is None else connect(self.cluster):
            check_model(self.model, self.tuned, self.loading)
            yield

    def answer(
        self, out: Path, sources: Sequence[tuple[Benchmark, Source]], chosen: Sequence[Strategy], batch_size: int
    ) -> Run:
        """Read the data, load the model, and answer what is left; return the run."""
        import mmhall
        from mmhall.benchmarks.run.runner import answer
        from mmhall.benchmarks.run.runs import begin, read
        from mmhall.benchmarks.run.workers import Job, Model
        from mmhall.cli.console import progress

        asked = read(sources)
        lvlm = mmhall.load(self.model, tuned=self.tuned, **self.loading.arguments())
        opened = begin(out, lvlm, loaded=asked, strategies=chosen, batch_size=batch_size)
        with _resumable(opened, out):
            if self.workers == 1 and self.cluster is None:
                for part in opened.parts:
                    with progress(part.benchmark.name, len(part.items) * len(chosen)) as advance:
                        answer(lvlm, opened, part, chosen, batch_size=batch_size, progress=advance)
            else:
                lvlm.close()
                del lvlm
                _free_memory()
                job = Job(opened, Model(self.model, self.tuned, self.loading), self.workers, self.gpus)
                with progress("answers", opened.expected) as advance:
                    job.here(advance) if self.cluster is None else job.run_on_ray(self.cluster, advance)
        return opened


def _bound(failed: int, most: int | None) -> None:
    """End with exit code 1 where more answers failed than the user allows."""
    if most is not None and failed > most:
        typer.echo(f"mmhall: {failed} answers failed, more than --max-errors {most}", err=True)
        raise typer.Exit(1)


def _free_memory() -> None:
    """Give the GPU's memory back, for workers to use."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check(
    numbers: Mapping[str, int | None],
    engine: str,
    data: Sequence[str],
    images: Sequence[str],
    drawn: tuple[int | None, float | None],
    most: int | None,
) -> None:
    """Refuse options that do not fit, before anything expensive is done."""
    for option, value in numbers.items():
        if value is not None and value < 1:
            raise OptionError("bench", option, value, "an integer >= 1")
    if most is not None and most < 0:
        raise OptionError("bench", "max_errors", most, "an integer >= 0")
    if engine not in ("local", "ray"):
        raise OptionError("bench", "engine", engine, '"local" or "ray"')
    if drawn[1] is not None and not 0 <= drawn[1] <= 1:
        raise OptionError("bench", "conflict", drawn[1], "a number in [0, 1]")
    if data and drawn != (None, None):
        raise OptionError("bench", "scenes and conflict", drawn, "left out with --data")
    if not data and images:
        raise OptionError("bench", "images", images[0], "given together with --data")


def _found(
    asked: Sequence[Benchmark], data: Sequence[str], images: Sequence[str]
) -> list[tuple[str | None, Path | None]]:
    """Return the data and the folder of pictures given for each benchmark, once all of them are there.

    Raises:
        DataError: Something is not there, or a benchmark needs data and was given none.
    """
    from mmhall.benchmarks.base import Source
    from mmhall.benchmarks.data.hub import PREFIX

    names = [benchmark.name for benchmark in asked]
    files, folders = _by_name("data", data, names), _by_name("images", images, names)
    for benchmark in asked:
        file, drawn = files.get(benchmark.name), benchmark.drawn and not data
        if not drawn and not (file or "").startswith(PREFIX):
            Source(None if file is None else Path(file)).data_path(benchmark.name, benchmark.reads)
    for folder in folders.values():
        if not Path(folder).is_dir():
            raise DataError(f"{folder}: no such folder; give the folder of the pictures with --images")
    return [(files.get(name), Path(folders[name]) if name in folders else None) for name in names]


def _sources(
    asked: Sequence[Benchmark],
    found: Sequence[tuple[str | None, Path | None]],
    drawn: Callable[[], Path],
    limit: int | None,
    seed: int,
) -> list[tuple[Benchmark, Source]]:
    """Say where each benchmark's data is; scenes are drawn for those that can do with them and were given none."""
    from mmhall.benchmarks.base import Source
    from mmhall.benchmarks.data.hub import data_path

    scenes = drawn() if all(file is None for file, _ in found) and any(one.drawn for one in asked) else None
    return [
        (one, Source(scenes if file is None else data_path(file, one.name), images, limit, seed))
        for one, (file, images) in zip(asked, found, strict=True)
    ]


def _by_name(option: str, values: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Read values written for all benchmarks, or as NAME=VALUE for one."""
    found: dict[str, str] = {}
    for value in values:
        name, sign, rest = value.partition("=")
        for one in [name] if sign and name in names else names:
            if one in found:
                raise OptionError("bench", option, value, f"given once for {one}")
            found[one] = rest if sign and name in names else value
    return found


@contextmanager
def _resumable(run: Run, out: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into one line; what was answered is kept."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as stopped:
        kept = f"{run.answered} of {run.expected} answers are kept in {out}"
        typer.echo(f"mmhall: stopped; {kept}, the same command goes on from there", err=True)
        raise typer.Exit(128 + signal.SIGTERM if signal.SIGTERM in stopped.args else 2) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _scenes(out: Path, scenes: int | None, seed: int, share: float | None) -> Path:
    """Draw the run's scenes into its folder, unless they lie there already."""
    from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
    from mmhall.cli.console import progress

    count, conflict = 200 if scenes is None else scenes, 0.5 if share is None else share
    folder = out / f"scenes-{count}-{seed}-{conflict:g}"
    if not (folder / ANNOTATIONS).is_file():
        with progress("drawing scenes", count) as advance:
            for _ in write_scenes(folder, count, seed, conflict):
                advance(1)
    return folder / ANNOTATIONS
