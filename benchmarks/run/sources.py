"""The data of each benchmark of a run: what the user gives by name, or drawn scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmhall.benchmarks.base import Benchmark, Source
from mmhall.benchmarks.data.hub import PREFIX, data_path
from mmhall.benchmarks.run.drawn_scenes import DrawnScenes
from mmhall.errors import DataError, OptionError


def check_numbers(numbers: Mapping[str, int | None], twins: int) -> None:
    """Check numbers before anything expensive is done.

    Raises:
        OptionError: One is below 1, or `twins` is below 0.
    """
    for option, value in numbers.items():
        if value is not None and value < 1:
            raise OptionError("bench", option, value, "an integer >= 1")
    if twins < 0:
        raise OptionError("bench", "twins", twins, "an integer >= 0")


def check_sources(data: Sequence[str], images: Sequence[str], drawn: DrawnScenes) -> None:
    """Check that pictures come with data, and that no scenes are asked for beside data.

    Raises:
        OptionError: They contradict each other.
    """
    drawn.check(bool(data))
    if not data and images:
        raise OptionError("bench", "images", images[0], "given together with --data")


def data_paths(
    benchmarks: Sequence[Benchmark], data: Sequence[str], images: Sequence[str]
) -> list[tuple[str | None, Path | None]]:
    """Return data and picture folder for each benchmark, after checking that they exist.

    Raises:
        DataError: A path does not exist, or a benchmark that needs data has none.
    """
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


def sources_of(
    benchmarks: Sequence[Benchmark],
    paths: Sequence[tuple[str | None, Path | None]],
    draw: Callable[[], Path],
    limit: int | None,
    seed: int,
) -> list[tuple[Benchmark, Source]]:
    """Return the data source of each benchmark; without any data, draw scenes for benchmarks that can use them."""
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
