"""Benchmarks from Python: run them (`mmhall.bench`), open what was run (`mmhall.open_run`), add own ones (`register`).

A run is the same as that of the command `mmhall bench`: the same folder and rows, and either goes on with the other's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from mmhall.benchmarks import BENCHMARKS
from mmhall.benchmarks.base import Benchmark
from mmhall.benchmarks.report.results import Results
from mmhall.benchmarks.run.adding import write_shared_config
from mmhall.benchmarks.run.arms import choose_arms
from mmhall.benchmarks.run.config import ALL, Config
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import LoadedBenchmark, Run, begin, read, reopen
from mmhall.benchmarks.run.seeds import seed_folders
from mmhall.benchmarks.run.sources import check_paths, sources_of
from mmhall.decoders import STRATEGIES
from mmhall.errors import OptionError
from mmhall.lvlm import LVLM
from mmhall.progress import progress as show_progress
from mmhall.results.store import Store
from mmhall.strategies import Strategy

Paths = str | Path | Mapping[str, str | Path]
Kind = TypeVar("Kind", bound=type)


def bench(
    lvlm: LVLM,
    benchmarks: str | Benchmark | type[Benchmark] | Sequence[str | Benchmark | type[Benchmark]],
    strategies: str | Strategy | type[Strategy] | Sequence[str | Strategy | type[Strategy]] = "greedy",
    *,
    out: str | Path,
    data: Paths | None = None,
    images: Paths | None = None,
    scenes: int | None = None,
    conflict: float | None = None,
    kind: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    every: bool = False,
    twins: int = 0,
    batch_size: int = 16,
    max_tokens: int | None = None,
    memory: int | str | None = None,
    progress: bool = True,
) -> Results:
    """Compare strategies on benchmarks; the same call goes on with a run that was stopped.

    With further strategies, it adds them to the run: the answers of the others stay. The run folder holds its
    configuration, as `mmhall run` reads it (`config.yaml`).

    Args:
        lvlm: The model.
        benchmarks: Benchmarks, such as "pope" or ["pope(rule='official')", "chair"]; also objects and classes.
        strategies: Strategies; the first is the baseline. Those of your own need no entry point.
        out: Folder of the run.
        data: Data to read, one for all benchmarks, or benchmark to data. By default, scenes are drawn.
        images: Folder of the pictures, likewise. By default, the data's own.
        scenes: Number of scenes to draw. By default, 200.
        conflict: Share of scenes that break co-occurrence. By default, 0.5.
        kind: Kind of scenes, "usual" or "hard". By default, the one that the model is made for.
        limit: Number of pictures to use, the first ones. By default, all.
        seed: Seed of the scenes and questions.
        seeds: Seeds of sampled answers: a run in `out`/seed-N for each, which are read together.
        every: Whether to add every strategy that the model can carry. Those that are fitted need their artifact:
            `mmhall bench --all` fits them first.
        twins: Number of random twins of each strategy that has them.
        batch_size: Number of items decoded together.
        max_tokens: Most positions in caches at a time, as in `LVLM.generate_many`: items of a batch that do not fit
            wait, and join as others end. Answers do not depend on it.
        memory: Most memory beside the model, likewise.
        progress: Whether to show progress on stderr.

    Raises:
        OptionError: An option is out of range, or two strategies are equal on this model.
        DataError: The data is missing or malformed.
        MmhallError: The folder belongs to another run, or a strategy does not work with the model.
    """
    asked: dict[str, Any] = {
        "benchmarks": benchmarks,
        "strategies": strategies,
        "data": data,
        "images": images,
        ALL: every,
    }
    asked |= {"scenes": scenes, "conflict": conflict, "kind": kind, "limit": limit, "seed": seed, "seeds": seeds}
    asked |= {"twins": twins, "batch_size": batch_size, "max_tokens": max_tokens, "memory": memory}
    config = Config.of_model(lvlm, asked)
    check_paths(config)
    runs = []
    for folder, own in config.runs(Path(out)):
        Store.check(folder)
        loaded = read(sources_of(own, folder, progress=progress), progress=progress)
        run, arms = begin_run(folder, lvlm, loaded, own, progress=progress)
        del loaded
        write_shared_config(Path(out), own)
        answer_here(lvlm, run, arms, own, progress=progress)
        runs.append(run.with_digests())
    return Results(runs)


def open_run(*folders: str | Path) -> Results:
    """Open runs, finished or not; several are read together, as are those that `seeds` has made in one folder.

    Args:
        *folders: Folders of the runs.

    Raises:
        OptionError: No folder is given.
        RunError: A folder holds no run, or the runs have another baseline or other benchmarks.
    """
    if not folders:
        raise OptionError("open_run", "folders", folders, "at least one run folder")
    found = [each for folder in map(Path, folders) for each in seed_folders(folder) or [folder]]
    return Results([reopen(folder) for folder in found])


def register(kind: Kind) -> Kind:
    """Add a strategy or a benchmark of your own to those that are found by name, in this process; a decorator.

    Args:
        kind: A frozen dataclass derived from `Strategy` or `Benchmark`, with a `name`.

    Raises:
        OptionError: It is neither, or its name is one of mmhall's own.
    """
    bases = kind.__mro__ if isinstance(kind, type) else ()
    registry = STRATEGIES if Strategy in bases else BENCHMARKS if Benchmark in bases else None
    if registry is None:
        raise OptionError("register", "class", kind, "derived from mmhall.Strategy or mmhall.Benchmark")
    registry.add(kind)
    return kind


def begin_run(
    folder: Path,
    lvlm: LVLM,
    loaded: Sequence[LoadedBenchmark],
    config: Config,
    unfitted: Mapping[str, str] = MappingProxyType({}),
    *,
    progress: bool = True,
) -> tuple[Run, tuple[Strategy, ...]]:
    """Start a run on loaded benchmarks, continue one, or add strategies to it; return it with its strategies.

    Args:
        folder: Run folder.
        lvlm: The model, with its artifacts.
        loaded: Benchmarks with their data.
        config: The configuration of the run.
        unfitted: Name of a strategy that could not be fitted, to the reason.
        progress: Whether to show progress on stderr, if there are many items.

    Raises:
        MmhallError: As for `mmhall.benchmarks.run.runs.begin`.
    """
    settings = [one.benchmark.settings for one in loaded]
    arms = choose_arms(config.strategies, lvlm.adapter, every=config.every, twins=config.twins, settings=settings)
    run = begin(
        folder,
        lvlm,
        loaded=loaded,
        strategies=arms.strategies,
        batch_size=config.batch_size,
        left_out={name: unfitted.get(name, why) for name, why in arms.left_out.items()},
        config=config,
        progress=progress,
    )
    return run, arms.strategies


def answer_here(lvlm: LVLM, run: Run, strategies: Sequence[Strategy], config: Config, *, progress: bool = True) -> None:
    """Generate the missing answers of a run in this process.

    Raises:
        MmhallError: As for `mmhall.benchmarks.run.runner.answer`.
    """
    for part in run.parts:
        total = len(part.items) * len(strategies)
        with show_progress(part.benchmark.name, total, shown=progress) as advance:
            answer(lvlm, run, part, strategies, batch_size=config.batch_size, budget=config.budget, progress=advance)
