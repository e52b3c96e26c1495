"""The command `mmhall bench`: compare strategies on benchmarks."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmhall.cli.console import parse_output_path
from mmhall.cli.loading import loads_model
from mmhall.errors import MmhallError, OptionError
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.benchmarks.base import Benchmark, Source
    from mmhall.benchmarks.run.arms import Wanted
    from mmhall.benchmarks.run.runs import Run


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
    full: Annotated[bool, typer.Option("--full", help="Print every table, as wide as it is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Compare strategies on benchmarks, with intervals and paired tests.

    Example: mmhall bench pope chair --strategy greedy --strategy vcd --out runs/first
    """
    from mmhall.benchmarks.run.arms import Wanted
    from mmhall.benchmarks.run.drawn_scenes import DrawnScenes
    from mmhall.benchmarks.run.runs import make_benchmarks, make_strategies
    from mmhall.benchmarks.run.seeds import seeded_runs
    from mmhall.benchmarks.run.sources import check_numbers, check_sources, data_paths, sources_of
    from mmhall.cli.console import parse_tuned
    from mmhall.cli.report import choose_form, print_runs

    if "speed" in benchmarks:
        raise MmhallError("bench: speed is a command of its own now; run `mmhall speed`")
    chosen, methods = make_benchmarks(list(benchmarks)), make_strategies(strategy)
    if out is None:
        raise OptionError("bench", "out", None, "a run folder, such as runs/first")
    form, drawn = choose_form("bench", full=full, json=as_json), DrawnScenes(scenes, conflict, kind)
    numbers = {"batch_size": batch_size, "limit": limit, "scenes": scenes, "workers": workers}
    check_numbers({**numbers, "gpus_per_worker": gpus_per_worker}, twins)
    if max_errors is not None and max_errors < 0:
        raise OptionError("bench", "max_errors", max_errors, "an integer >= 0")
    if engine not in ("local", "ray"):
        raise OptionError("bench", "engine", engine, '"local" or "ray"')
    check_sources(data, images, drawn)
    paths, options = data_paths(chosen, data, images), parse_tuned(tuned)
    cluster = address if engine == "ray" else None
    team = Team(model, options, loading.for_gpus(gpus_per_worker), workers, gpus_per_worker, cluster)
    runs = []
    for folder, asked in seeded_runs(out, chosen, seeds):
        with team.check_before_loading(folder):
            sources = sources_of(asked, paths, partial(drawn.draw, model, folder, seed), limit, seed)
            runs.append(team.answer(folder, sources, Wanted(methods, every, twins), batch_size))
    evaluated = print_runs(runs, form)
    _check_failures(sum(sum(evaluation.failed.values()) for _, evaluation in evaluated), max_errors)


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
        from mmhall.benchmarks.run.calls import answer_here, begin_run
        from mmhall.benchmarks.run.runs import read
        from mmhall.benchmarks.run.workers import Job, Model
        from mmhall.progress import progress

        parts = read(sources)
        loading, unfitted = self._fit_learners(out) if wanted.every else (self.loading, {})
        lvlm = mmhall.load(self.model, tuned=self.tuned, **loading.arguments())
        run, strategies = begin_run(out, lvlm, parts, wanted, batch_size, unfitted)
        with _resumable(run, out):
            if self.workers == 1 and self.cluster is None:
                answer_here(lvlm, run, strategies, batch_size)
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
