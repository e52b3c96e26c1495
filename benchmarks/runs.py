"""A run: a store, the pictures and items it is about, and the strategies compared in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mmhall
from mmhall.benchmarks import BENCHMARKS
from mmhall.benchmarks.base import Benchmark, Item
from mmhall.benchmarks.evaluation import Evaluation, evaluate
from mmhall.benchmarks.pictures import PictureSet, read_coco
from mmhall.errors import OptionError, RunError
from mmhall.generation.settings import Settings
from mmhall.lvlm import LVLM
from mmhall.results.store import Store
from mmhall.strategies import Strategy, strategy


@dataclass(frozen=True, slots=True)
class Run:
    """An open run.

    Attributes:
        store: Its answers.
        pictures: What it is about.
        benchmarks: Each benchmark with its items.
        strategies: As written for the run, the baseline first.
    """

    store: Store
    pictures: PictureSet
    benchmarks: tuple[tuple[Benchmark, list[Item]], ...]
    strategies: tuple[str, ...]

    @property
    def fitted(self) -> dict[str, str]:
        """Each strategy with every option that was in force, by how it was written for the run."""
        known = self.store.setup().get("fitted", {})
        return {written: known.get(written, written) for written in self.strategies}

    @property
    def expected(self) -> int:
        """Number of answers a finished run has."""
        return len(self.strategies) * sum(len(items) for _, items in self.benchmarks)

    @property
    def answered(self) -> int:
        """Number of answers there are."""
        return sum(len(self.store.done(benchmark.name)) for benchmark, _ in self.benchmarks)

    def evaluate(self) -> list[tuple[Benchmark, list[Item], Evaluation]]:
        """Evaluate every benchmark on the items all strategies have answered."""
        return [
            (benchmark, items, evaluate(benchmark, items, list(self.store.rows(benchmark.name)), self.strategies))
            for benchmark, items in self.benchmarks
        ]


def make_strategies(specs: Sequence[str]) -> list[Strategy]:
    """Build a run's strategies; the first one is the baseline.

    Raises:
        OptionError: One is named twice.
        MmhallError: One does not exist or has an option out of range.
    """
    made = [strategy(spec) for spec in specs]
    names = [str(s) for s in made]
    for name in names:
        if names.count(name) > 1:
            raise OptionError("bench", "strategy", name, "named once")
    return made


def start(
    folder: Path,
    lvlm: LVLM,
    *,
    names: Sequence[str],
    strategies: Sequence[Strategy],
    annotations: Path,
    images: Path,
    limit: int | None,
    seed: int,
    batch_size: int,
) -> Run:
    """Start a run, or go on with the one of the same set-up.

    Args:
        folder: Run folder.
        lvlm: The model.
        names: Benchmarks.
        strategies: The baseline first.
        annotations: COCO detection file.
        images: Folder of its pictures.
        limit: Use only the first so many pictures.
        seed: Seeds the benchmarks' draws.
        batch_size: Items decoded together.

    Raises:
        OptionError: Two strategies are the same on this model.
        MmhallError: A benchmark is unknown, the data unfit, or the folder belongs to another set-up.
    """
    pictures = read_coco(annotations, images, limit)
    benchmarks = _with_items(names, pictures, seed)
    setup: dict[str, Any] = {
        **lvlm.identity(),
        "strategies": [str(s) for s in strategies],
        "fitted": _fitted(lvlm, strategies),
        "num_beams": {str(s): s.beams for s in strategies},
        "options": {str(s): s.options() for s in strategies},
        "benchmarks": {
            b.name: {"rule": b.rule, "items": _digest(items), "count": len(items), "settings": _settings(lvlm, b)}
            for b, items in benchmarks
        },
        "pictures": pictures.digest,
        "seed": seed,
        "limit": limit,
        "batch_size": batch_size,
        "versions": {"mmhall": mmhall.__version__, **{p: version(p) for p in ("torch", "transformers")}},
    }
    notes = {"annotations": _noted(annotations, folder), "images": _noted(images, folder)}
    store = Store.create(folder, setup, notes)
    return Run(store, pictures, benchmarks, tuple(setup["strategies"]))


def reopen(folder: Path) -> Run:
    """Open a run to report on it.

    Raises:
        MmhallError: The folder holds no run, or its data has changed since.
    """
    store = Store.open(folder)
    setup, places = store.setup(), store.notes()
    pictures = read_coco(folder / places["annotations"], folder / places["images"], setup["limit"])
    benchmarks = _with_items(list(setup["benchmarks"]), pictures, setup["seed"])
    for benchmark, items in benchmarks:
        if _digest(items) != setup["benchmarks"][benchmark.name]["items"]:
            raise RunError(
                f"{folder}: the items of {benchmark.name} are not those the run was made with; "
                f"{places['annotations']} or mmhall has changed"
            )
    return Run(store, pictures, benchmarks, tuple(setup["strategies"]))


def _fitted(lvlm: LVLM, strategies: Sequence[Strategy]) -> dict[str, str]:
    """Return each strategy with every option that is in force on this model."""
    fitted = {str(s): str(s.fitted(lvlm.adapter)) for s in strategies}
    for written, text in fitted.items():
        if list(fitted.values()).count(text) > 1:
            raise OptionError("bench", "strategy", written, f"named once; another one is {text} on this model, too")
    return fitted


def _settings(lvlm: LVLM, benchmark: Benchmark) -> dict[str, Any]:
    settings = Settings(max_new_tokens=benchmark.max_new_tokens)
    shared = settings.record(settings.resolved(lvlm.model))
    del shared["num_beams"]  # each strategy has its own
    return shared


def _noted(path: Path, folder: Path) -> str:
    """Write a path so that a run folder with its own pictures can be moved."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _with_items(names: Sequence[str], pictures: PictureSet, seed: int) -> tuple[tuple[Benchmark, list[Item]], ...]:
    benchmarks: list[Benchmark] = [BENCHMARKS.load(name)() for name in names]
    return tuple((benchmark, benchmark.items(pictures, seed)) for benchmark in benchmarks)


def _digest(items: Sequence[Item]) -> str:
    listing = json.dumps([[item.id, item.prompt, item.groups, dict(item.truth)] for item in items], sort_keys=True)
    return hashlib.sha256(listing.encode()).hexdigest()[:16]
