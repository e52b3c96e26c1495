"""The commands `mmhall bench` and `mmhall run`: compare strategies on benchmarks, by flags or by a file."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmhall.benchmarks.run.config import Config
from mmhall.cli.asking import asks_run, asks_where
from mmhall.cli.console import parse_output_path
from mmhall.cli.loading import loads_model
from mmhall.errors import MmhallError, OptionError
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.benchmarks.base import Benchmark, Source
    from mmhall.benchmarks.run.runs import Run
    from mmhall.cli.report import Form

_FULL = Annotated[bool, typer.Option("--full", help="Print every table, as wide as it is.")]
_JSON = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


@asks_run
@loads_model
def bench(
    benchmarks: Annotated[
        list[str] | None,
        typer.Argument(help="Benchmarks, such as: pope chair; with options: \"pope(rule='official')\"."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=parse_output_path,
            metavar="DIR",
            help="Run folder to write; the same command continues a stopped run, and adds further strategies.",
        ),
    ] = None,
    add: Annotated[
        list[str],
        typer.Option(
            metavar="STRATEGY",
            help="Add this strategy to the run in --out, which says the rest; repeatable. Nothing is asked anew.",
        ),
    ] = [],  # noqa: B006
    full: _FULL = False,
    as_json: _JSON = False,
    *,
    asked: dict[str, Any],
    loading: LoadOptions,
) -> None:
    """Compare strategies on benchmarks, with intervals and paired tests.

    Example: mmhall bench pope chair --strategy greedy --strategy vcd --out runs/first
    """
    from mmhall.benchmarks.run.adding import add_strategies
    from mmhall.cli.report import choose_form

    if "speed" in (benchmarks or ()):
        raise MmhallError("bench: speed is a command of its own now; run `mmhall speed`")
    words = {**({"benchmarks": benchmarks} if benchmarks else {}), **asked, **loading.non_defaults()}
    config = None if add else Config.from_words(words)
    if out is None:
        raise OptionError("bench", "out", None, "a run folder, such as runs/first")
    form = choose_form("bench", full=full, json=as_json)
    answer_and_print(out, add_strategies(out, add, words) if config is None else config.runs(out), form)


@asks_where
@loads_model
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="File, as every run folder has one.")],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=parse_output_path,
            metavar="DIR",
            help="Run folder to write. By default, the run folder that the file is in, else runs/NAME of the file.",
        ),
    ] = None,
    full: _FULL = False,
    as_json: _JSON = False,
    *,
    asked: dict[str, Any],
    loading: LoadOptions,
) -> None:
    """Repeat a run, or make one that a file describes, in the words of the flags of `mmhall bench`.

    Flags of loading and of where the run is answered win over the file.

    Example: mmhall run runs/first/config.yaml --out runs/second
    """
    from mmhall.benchmarks.run.config_file import NAME, load_config
    from mmhall.benchmarks.run.seeds import seed_folders
    from mmhall.cli.report import choose_form
    from mmhall.results.store import FILE

    form = choose_form("run", full=full, json=as_json)
    wanted = load_config(config, {**asked, **loading.non_defaults()})
    written = (config.parent / FILE).is_file() or (config.name == NAME and seed_folders(config.parent))
    folder = out or (config.parent if written else Path("runs") / config.stem)
    answer_and_print(folder, wanted.runs(folder), form)


def answer_and_print(out: Path, runs: Sequence[tuple[Path, Config]], form: Form) -> None:
    """Answer what runs have no answers to yet, and print their results.

    Args:
        out: Folder of the run, or of the runs.
        runs: Folder and configuration of each.
        form: How to print the results.

    Raises:
        MmhallError: The data, the model or the folder is unsuitable.
    """
    from mmhall.benchmarks.run.sources import check_paths, sources_of
    from mmhall.cli.report import print_runs

    for _, config in runs:
        check_paths(config)
    done = []
    for folder, config in runs:
        team = Team(config)
        with team.check_before_loading(folder):
            done.append(team.answer(folder, sources_of(config, folder), out))
    evaluated = print_runs(done, form)
    _check_failures(sum(sum(evaluation.failed.values()) for _, evaluation in evaluated), runs[0][1].max_errors)


@dataclass(frozen=True, slots=True)
class Team:
    """The model and the processes that answer a run: this one, several, or workers on a Ray cluster.

    Attributes:
        config: The configuration of the run.
    """

    config: Config

    @property
    def loading(self) -> LoadOptions:
        """How each process loads the model."""
        return self.config.loading.for_gpus(self.config.gpus_per_worker)

    @property
    def cluster(self) -> str | None:
        """Address of the Ray cluster; None: this machine."""
        return self.config.address if self.config.engine == "ray" else None

    @contextmanager
    def check_before_loading(self, out: Path) -> Iterator[None]:
        """Check folder, GPUs and model before scenes are drawn and weights are read; hold the cluster connection."""
        from mmhall.benchmarks.run.cluster import connect
        from mmhall.benchmarks.run.workers import worker_environment
        from mmhall.model_check import check_model
        from mmhall.results.store import Store

        Store.check(out)
        if self.cluster is None and self.config.workers > 1:
            # it raises an error if there are too few GPUs
            worker_environment(0, self.config.workers, self.config.gpus_per_worker)
        with nullcontext() if self.cluster is None else connect(self.cluster):
            check_model(self.config.model, self.config.tuned, self.loading)
            yield

    def answer(self, folder: Path, sources: Sequence[tuple[Benchmark, Source]], out: Path | None = None) -> Run:
        """Read the data, load the model, and answer the items that have no answers yet; return the run.

        Args:
            folder: The run folder.
            sources: Benchmarks with their data.
            out: Folder of several runs, of which this is one; None: this is none of several.
        """
        import mmhall
        from mmhall.benchmarks.run.adding import write_shared_config
        from mmhall.benchmarks.run.calls import answer_here, begin_run
        from mmhall.benchmarks.run.runs import read
        from mmhall.benchmarks.run.workers import Job, Model
        from mmhall.progress import progress

        config, parts = self.config, read(sources)
        loading, unfitted = self._fit_learners(folder) if config.every else (self.loading, {})
        lvlm = mmhall.load(config.model, tuned=config.tuned, **loading.arguments())
        run, strategies = begin_run(folder, lvlm, parts, config, unfitted)
        del parts  # what the run does not need, such as the pictures' paths
        if out is not None:
            write_shared_config(out, config)
        with _resumable(run, folder):
            if config.workers == 1 and self.cluster is None:
                answer_here(lvlm, run, strategies, config)
            else:
                lvlm.close()
                del lvlm
                _free_memory()
                model = Model(config.model, config.tuned, loading)
                job = Job(run, model, config.workers, config.gpus_per_worker, config.budget)
                with progress("answers", run.expected) as advance:
                    job.here(advance) if self.cluster is None else job.run_on_ray(self.cluster, advance)
        return run.with_digests()

    def _fit_learners(self, out: Path) -> tuple[LoadOptions, Mapping[str, str]]:
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
                lvlm = mmhall.load(self.config.model, tuned=self.config.tuned, **self.loading.arguments())
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
