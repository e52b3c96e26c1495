"""The command `mmhall bench`: compare strategies on benchmarks."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmhall.cli.console import parse_output_path
from mmhall.cli.drawn_scenes import DrawnScenes
from mmhall.cli.loading import loads_model
from mmhall.errors import DataError, MmhallError, OptionError
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.benchmarks.base import Benchmark, Source
    from mmhall.benchmarks.run.runs import Run
    from mmhall.strategies import Strategy


@loads_model
def bench(
    benchmarks: Annotated[
        list[str], typer.Argument(help="Benchmarks, such as: pope chair; with options: \"pope(rule='official')\".")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=parse_output_path,
            metavar="DIR",
            help="Run folder to write; the same command continues a stopped run.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Model to load: embedded, a folder, or a hub id.")] = "embedded",
    strategy: Annotated[list[str], typer.Option(help="Strategy; repeatable. The first is the baseline.")] = ["greedy"],  # noqa: B006
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Add every strategy that the model can carry, with its default options. Those that are fitted to a "
            "model are fitted to this one first, in the run folder. With the embedded model on two cores, pope and "
            "chair of 200 scenes take about half a minute for each strategy and twin.",
        ),
    ] = False,
    twins: Annotated[
        int, typer.Option(help="Number of random twins of each strategy that has them, as its controls; 5 is usual.")
    ] = 0,
    data: Annotated[
        list[str],
        typer.Option(
            help="Data to read: a file or folder, also of Parquet, or hub:ID[@REVISION]; for several benchmarks also "
            "NAME=PATH, repeatable. By default, scenes are drawn."
        ),
    ] = [],  # noqa: B006
    images: Annotated[
        list[str], typer.Option(help="Folder with the pictures of --data, or NAME=FOLDER. By default, the data's own.")
    ] = [],  # noqa: B006
    scenes: Annotated[int | None, typer.Option(help="Number of scenes to draw. By default, 200.")] = None,
    conflict: Annotated[
        float | None, typer.Option(help="Fraction of scenes that break co-occurrence. By default, 0.5.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="Kind of scenes: usual or hard. By default, the one the model is made for, else usual."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only this many pictures, the first ones.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the scenes and questions.")] = 0,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds of sampled answers, such as 0,1,2: a run in DIR/seed-N for each.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Number of items to decode together.")] = 16,
    workers: Annotated[int, typer.Option(help="Number of processes that share the work.")] = 1,
    gpus_per_worker: Annotated[
        int, typer.Option(help="Number of GPUs for each process; its model is spread over them.")
    ] = 1,
    engine: Annotated[str, typer.Option(help='Where workers run: "local", or "ray" for a Ray cluster.')] = "local",
    address: Annotated[str, typer.Option(help="Address of the Ray cluster.")] = "auto",
    tuned: Annotated[
        str | None,
        typer.Option(help='File with options tuned for the model, or "none". By default, the model\'s own.'),
    ] = None,
    max_errors: Annotated[
        int | None, typer.Option(help="Exit with 1 if more answers than this fail. By default, they are only reported.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Compare strategies on benchmarks, with intervals and paired tests.

    Example: mmhall bench pope chair --strategy greedy --strategy vcd --out runs/first
    """
    from mmhall.benchmarks.run.runs import make_benchmarks, make_strategies
    from mmhall.cli.console import parse_tuned
    from mmhall.cli.report import print_runs
    from mmhall.cli.seeds import seeded_runs

    if "speed" in benchmarks:
        raise MmhallError("bench: speed is a command of its own now; run `mmhall speed`")
    chosen, methods = make_benchmarks(list(benchmarks)), make_strategies(strategy)
    if out is None:
        raise OptionError("bench", "out", None, "a run folder, such as runs/first")
    drawn = DrawnScenes(scenes, conflict, kind)
    numbers = {"batch_size": batch_size, "limit": limit, "scenes": scenes, "workers": workers}
    _check_options({**numbers, "gpus_per_worker": gpus_per_worker}, engine, data, images, drawn, max_errors)
    if twins < 0:
        raise OptionError("bench", "twins", twins, "an integer >= 0")
    paths, options = _data_paths(chosen, data, images), parse_tuned(tuned)
    cluster = address if engine == "ray" else None
    team = Team(model, options, loading.for_gpus(gpus_per_worker), workers, gpus_per_worker, cluster)
    runs = []
    for folder, asked in seeded_runs(out, chosen, seeds):
        with team.check_before_loading(folder):
            sources = _sources(asked, paths, partial(drawn.draw, model, folder, seed), limit, seed)
            runs.append(team.answer(folder, sources, Wanted(methods, every, twins), batch_size))
    evaluated = print_runs(runs, as_json=as_json)
    _check_failures(sum(sum(evaluation.failed.values()) for _, evaluation in evaluated), max_errors)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The strategies that a user wants.

    Attributes:
        named: Strategies by name, the baseline first.
        every: Whether to add all others that the model can carry.
        twins: Number of random twins of each.
    """

    named: Sequence[Strategy]
    every: bool
    twins: int


@dataclass(frozen=True, slots=True)
class Team:
    """The model and the processes that answer: this one, several, or workers on a Ray cluster.

    Attributes:
        model: As in `mmhall.load`.
        tuned: As in `mmhall.load`.
        loading: Other options of `mmhall.load`.
        workers: Number of processes.
        gpus: Number of GPUs for each process.
        cluster: Address of the Ray cluster; None: this machine.
    """

    model: str
    tuned: str | Literal[False] | None
    loading: LoadOptions
    workers: int
    gpus: int
    cluster: str | None

    @contextmanager
    def check_before_loading(self, out: Path) -> Iterator[None]:
        """Check folder, GPUs and model before scenes are drawn and weights are read; hold the cluster connection."""
        from mmhall.benchmarks.run.cluster import connect
        from mmhall.benchmarks.run.workers import worker_environment
        from mmhall.model_check import check_model
        from mmhall.results.store import Store

        Store.check(out)
        if self.cluster is None and self.workers > 1:
            worker_environment(0, self.workers, self.gpus)  # raises if there are too few GPUs
        with nullcontext() if self.cluster is None else connect(self.cluster):
            check_model(self.model, self.tuned, self.loading)
            yield

    def answer(self, out: Path, sources: Sequence[tuple[Benchmark, Source]], wanted: Wanted, batch_size: int) -> Run:
        """Read the data, load the model, and answer the items that have no answers yet; return the run."""
        import mmhall
        from mmhall.benchmarks.run.arms import choose_arms
        from mmhall.benchmarks.run.runner import answer
        from mmhall.benchmarks.run.runs import begin, read
        from mmhall.benchmarks.run.workers import Job, Model
        from mmhall.cli.console import progress

        parts = read(sources)
        loading, unfitted = self._fit_learners(out) if wanted.every else (self.loading, {})
        lvlm = mmhall.load(self.model, tuned=self.tuned, **loading.arguments())
        settings = [part.benchmark.settings for part in parts]
        arms = choose_arms(wanted.named, lvlm.adapter, every=wanted.every, twins=wanted.twins, settings=settings)
        strategies, left_out = arms.strategies, {name: unfitted.get(name, why) for name, why in arms.left_out.items()}
        run = begin(out, lvlm, loaded=parts, strategies=strategies, batch_size=batch_size, left_out=left_out)
        with _resumable(run, out):
            if self.workers == 1 and self.cluster is None:
                for part in run.parts:
                    with progress(part.benchmark.name, len(part.items) * len(strategies)) as advance:
                        answer(lvlm, run, part, strategies, batch_size=batch_size, progress=advance)
            else:
                lvlm.close()
                del lvlm
                _free_memory()
                job = Job(run, Model(self.model, self.tuned, loading), self.workers, self.gpus)
                with progress("answers", run.expected) as advance:
                    job.here(advance) if self.cluster is None else job.run_on_ray(self.cluster, advance)
        return run

    def _fit_learners(self, out: Path) -> tuple[LoadOptions, dict[str, str]]:
        """Fit to the model, into the run folder, what has no artifact there yet.

        Returns:
            The options that load the artifacts, and the strategies that could not be fitted with the reasons.
        """
        import mmhall
        from mmhall.benchmarks.run.arms import ARTIFACTS, fit_learners, unfitted_learners
        from mmhall.cli.fit import SEED, draw_samples

        folder, failed = out / ARTIFACTS, dict[str, str]()
        if unfitted_learners(folder):
            with tempfile.TemporaryDirectory() as scratch:
                lvlm = mmhall.load(self.model, tuned=self.tuned, **self.loading.arguments())
                failed = fit_learners(lvlm, folder, lambda kind: draw_samples(kind, Path(scratch) / kind), SEED)
        return (replace(self.loading, artifacts=str(folder)) if folder.is_dir() else self.loading), failed


def _check_failures(failed: int, max_errors: int | None) -> None:
    """Exit with 1 if more answers failed than the user allows."""
    if max_errors is not None and failed > max_errors:
        typer.echo(f"mmhall: {failed} answers failed, more than --max-errors {max_errors}", err=True)
        raise typer.Exit(1)


def _free_memory() -> None:
    """Free GPU memory for the workers."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_options(
    numbers: Mapping[str, int | None],
    engine: str,
    data: Sequence[str],
    images: Sequence[str],
    drawn: DrawnScenes,
    max_errors: int | None,
) -> None:
    """Check the options before anything expensive is done."""
    for option, value in numbers.items():
        if value is not None and value < 1:
            raise OptionError("bench", option, value, "an integer >= 1")
    if max_errors is not None and max_errors < 0:
        raise OptionError("bench", "max_errors", max_errors, "an integer >= 0")
    if engine not in ("local", "ray"):
        raise OptionError("bench", "engine", engine, '"local" or "ray"')
    drawn.check(bool(data))
    if not data and images:
        raise OptionError("bench", "images", images[0], "given together with --data")


def _data_paths(
    benchmarks: Sequence[Benchmark], data: Sequence[str], images: Sequence[str]
) -> list[tuple[str | None, Path | None]]:
    """Return data and picture folder for each benchmark, after checking that they exist.

    Raises:
        DataError: A path does not exist, or a benchmark that needs data has none.
    """
    from mmhall.benchmarks.base import Source
    from mmhall.benchmarks.data.hub import PREFIX

    names = [benchmark.name for benchmark in benchmarks]
    files, folders = _by_name("data", data, names), _by_name("images", images, names)
    for benchmark in benchmarks:
        file, uses_scenes = files.get(benchmark.name), benchmark.drawn and not data
        if not uses_scenes and not (file or "").startswith(PREFIX):
            Source(None if file is None else Path(file)).data_path(benchmark.name, benchmark.reads)
    for folder in folders.values():
        if not Path(folder).is_dir():
            raise DataError(f"{folder}: no such folder; give the folder of the pictures with --images")
    return [(files.get(name), Path(folders[name]) if name in folders else None) for name in names]


def _sources(
    benchmarks: Sequence[Benchmark],
    paths: Sequence[tuple[str | None, Path | None]],
    draw: Callable[[], Path],
    limit: int | None,
    seed: int,
) -> list[tuple[Benchmark, Source]]:
    """Return the data source of each benchmark; without any data, draw scenes for benchmarks that can use them."""
    from mmhall.benchmarks.base import Source
    from mmhall.benchmarks.data.hub import data_path

    needs_scenes = all(file is None for file, _ in paths) and any(benchmark.drawn for benchmark in benchmarks)
    scenes = draw() if needs_scenes else None
    return [
        (benchmark, Source(scenes if file is None else data_path(file, benchmark.name), images, limit, seed))
        for benchmark, (file, images) in zip(benchmarks, paths, strict=True)
    ]


def _by_name(option: str, values: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Parse values for all benchmarks, or NAME=VALUE for one of them."""
    by_name: dict[str, str] = {}
    for value in values:
        name, sign, rest = value.partition("=")
        for benchmark in [name] if sign and name in names else names:
            if benchmark in by_name:
                raise OptionError("bench", option, value, f"given once for {benchmark}")
            by_name[benchmark] = rest if sign and name in names else value
    return by_name


@contextmanager
def _resumable(run: Run, out: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into one line and an exit code; stored answers are kept."""

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
