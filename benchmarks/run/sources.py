"""The data of each benchmark of a run: what the user gives, or drawn scenes; and whether its files exist."""

from __future__ import annotations

from pathlib import Path

from mmhall.benchmarks.base import Benchmark, Source
from mmhall.benchmarks.data.hub import PREFIX, data_path
from mmhall.benchmarks.run.config import Config
from mmhall.errors import DataError
from mmhall.strategies import tuned


def check_paths(config: Config) -> None:
    """Check that the files that a run names exist, before anything expensive is done.

    Raises:
        DataError: A path does not exist, or a benchmark that needs data has none.
    """
    tuned.find(config.model, config.tuned)
    for benchmark in config.benchmarks:
        file, uses_scenes = config.data.get(benchmark.name), benchmark.drawn and not config.data
        if not uses_scenes and not (file or "").startswith(PREFIX):
            Source(None if file is None else Path(file)).data_path(benchmark.name, benchmark.reads)
    for folder in config.images.values():
        if not Path(folder).is_dir():
            raise DataError(f"{folder}: no such folder; give the folder of the pictures with --images")


def sources_of(config: Config, out: Path, *, progress: bool = True) -> list[tuple[Benchmark, Source]]:
    """Return the data source of each benchmark of a run; draw its scenes, unless they exist.

    Args:
        config: The configuration.
        out: The run folder.
        progress: Whether to show progress on stderr.

    Raises:
        DataError: Data of the hub cannot be had.
    """
    scenes = config.drawn.draw(config.model, out, config.seed, progress=progress) if config.draws else None
    sources = []
    for benchmark in config.benchmarks:
        file, images = config.data.get(benchmark.name), config.images.get(benchmark.name)
        data = scenes if file is None else data_path(file, benchmark.name)
        sources.append((benchmark, Source(data, None if images is None else Path(images), config.limit, config.seed)))
    return sources
