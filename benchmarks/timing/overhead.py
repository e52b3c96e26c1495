"""Timing of the runner's overhead over generation: python -m mmhall.benchmarks.timing.overhead.

The embedded model answers POPE and CHAIR on drawn scenes, once through the runner (batches, leases, commits,
progress) and once by bare `generate_batch` calls on the same batches, in turns. It gives two figures: the ratio of
both times, which has the noise of two runs, and the time outside the model (reading prompts and pictures, generation)
within the runner's own run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, cast

import mmhall
from mmhall.adapters import Adapter, Batch, Request
from mmhall.answers import Answer
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.run.runner import answer, batches
from mmhall.benchmarks.run.runs import Part, make_benchmarks, make_strategies, start
from mmhall.lvlm import LVLM
from mmhall.strategies import Strategy

BENCHMARKS = ("pope", "chair")
BATCH, SCENES, TURNS = 8, 40, 5


@dataclass(frozen=True, slots=True)
class Overhead:
    """The runner's overhead on one benchmark; each list has one value per turn.

    Attributes:
        benchmark: Name of the benchmark.
        items: Items answered per turn.
        seconds: Time of the bare calls.
        ratios: Time of the runner over that of the bare calls.
        outside: Time of the runner over that of its own calls.
    """

    benchmark: str
    items: int
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]
    outside: tuple[float, ...]


class TimedModel:
    """A model that measures its time of generation, and of reading prompts and pictures before it."""

    def __init__(self, lvlm: LVLM) -> None:
        self._lvlm, self.seconds = lvlm, 0.0
        self.adapter = TimedAdapter(lvlm.adapter, self.clocked)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lvlm, name)

    def clocked(self, call: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        """Call something, and add the time."""
        began = time.perf_counter()
        try:
            return call(*arguments, **settings)
        finally:
            self.seconds += time.perf_counter() - began

    def generate_batch(self, *arguments: Any, **settings: Any) -> list[Answer]:
        """Generate like the model, and add the time."""
        answers: list[Answer] = self.clocked(self._lvlm.generate_batch, *arguments, **settings)
        return answers


class TimedAdapter:
    """An adapter that measures the time in which it reads prompts and pictures."""

    def __init__(self, adapter: Adapter, clocked: Callable[..., Any]) -> None:
        self._adapter, self._clocked = adapter, clocked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def inputs(self, requests: Sequence[Request]) -> Batch:
        """Read requests like the adapter, and add the time."""
        batch: Batch = self._clocked(self._adapter.inputs, requests)
        return batch


def measure(
    lvlm: LVLM,
    *,
    scenes: int = SCENES,
    turns: int = TURNS,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Overhead]:
    """Time the runner and the bare calls in alternating order, with greedy decoding.

    Args:
        lvlm: The model.
        scenes: Number of drawn scenes.
        turns: Number of timed turns.
        progress: Called with a line after each turn.
    """
    from mmhall.benchmarks.scenes import write_scenes

    strategies = make_strategies(["greedy"])
    overheads = []
    with TemporaryDirectory() as folder:
        list(write_scenes(Path(folder) / "scenes", scenes, 0))
        source = Source(Path(folder) / "scenes" / "annotations.json")
        for name in BENCHMARKS:
            measured_turns = []
            for turn in range(-1, turns):  # the first turn warms up
                out = Path(folder) / f"{name}-{turn}"
                measured_turns.append(_turn(lvlm, name, source, out, strategies, runner_first=turn % 2 == 0))
                progress(f"{name}, turn {turn + 1} of {turns}")
            overheads.append(_overhead(name, measured_turns[1:]))
    return overheads


def table(overheads: Sequence[Overhead]) -> list[tuple[str, ...]]:
    """Format the figures: medians, and the range in brackets."""

    def spread(values: Sequence[float]) -> str:
        return f"{median(values):.4f} [{min(values):.4f}, {max(values):.4f}]"

    header = ("benchmark", "items", "generation, s", "runner / bare calls", "runner / its own calls")
    lines = [
        (o.benchmark, str(o.items), f"{median(o.seconds):.2f}", spread(o.ratios), spread(o.outside)) for o in overheads
    ]
    return [header, *lines]


@dataclass(frozen=True, slots=True)
class _Turn:
    items: int
    bare: float
    runner: float
    calls: float


def _turn(
    lvlm: LVLM, name: str, source: Source, out: Path, strategies: Sequence[Strategy], *, runner_first: bool
) -> _Turn:
    run = start(out, lvlm, benchmarks=[(make_benchmarks([name])[0], source)], strategies=strategies, batch_size=BATCH)
    (part,) = run.parts
    clocked = TimedModel(lvlm)
    steps: dict[str, Callable[[], None]] = {
        "bare": lambda: _bare(lvlm, part, strategies[0]),
        "runner": lambda: answer(cast(LVLM, clocked), run, part, strategies, batch_size=BATCH),
    }
    seconds = {}
    for step in sorted(steps, reverse=runner_first):
        began = time.perf_counter()
        steps[step]()
        seconds[step] = time.perf_counter() - began
    run.store.close()
    return _Turn(len(part.items), seconds["bare"], seconds["runner"], clocked.seconds)


def _bare(lvlm: LVLM, part: Part, strategy: Strategy) -> None:
    for items in batches(part.items, BATCH):
        lvlm.generate_batch([part.request(item) for item in items], strategy, **part.benchmark.settings)


def _overhead(name: str, turns: Sequence[_Turn]) -> Overhead:
    return Overhead(
        name,
        turns[0].items,
        tuple(t.bare for t in turns),
        tuple(t.runner / t.bare for t in turns),
        tuple(t.runner / t.calls for t in turns),
    )


def main() -> None:
    """Measure on this machine and print the table."""
    import sys

    from mmhall.benchmarks.timing.speed import machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes to draw")
    parser.add_argument("--turns", type=int, default=TURNS, help="how often both are timed")
    options = parser.parse_args()
    lvlm = mmhall.load("embedded")
    overheads = measure(
        lvlm, scenes=options.scenes, turns=options.turns, progress=lambda line: print(line, file=sys.stderr)
    )
    for row in table(overheads):
        print("  ".join(f"{cell:<25}" for cell in row).rstrip())
    print(f"\nMedian and range of {options.turns} turns, batch {BATCH}, greedy, embedded model.")
    print(machine(lvlm.model.device.type))


if __name__ == "__main__":
    main()
