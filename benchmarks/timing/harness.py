"""The harness's share of a run's time: python -m mmhall.benchmarks.timing.harness.

The embedded model answers CHAIR and POPE on drawn scenes through the runner, with one strategy, for which the harness
costs most: a batch is read once for all strategies. Each part is clocked where it is called, without the parts that it
calls. Mentions of captions are measured with the model, as evidence about the baseline, so they are not counted.

On a CPU torch computes in one thread, and the time is that for which the runner's thread has computed, so that other
work on the machine counts little. With --ahead a second thread reads the next batch, which needs a core of its own.
"""

from __future__ import annotations

import argparse
import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

import mmhall
from mmhall import lvlm as model_module
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.run import inputs, runner
from mmhall.benchmarks.run.runs import make_benchmarks, make_strategies, start
from mmhall.lvlm import LVLM
from mmhall.results.store import Store

BENCHMARKS = ("chair", "pope")
BATCH, SCENES, TURNS = 16, 64, 3
MODEL, MENTIONS, WARM_UP, REST = "model and decoding", "mentions", "warm-up", "rows, batches, the rest"
HARNESS = (
    *("opening pictures", "processing pictures", "prompts and their tokens", "text of answers", "noting pictures"),
    *("store", "leases", REST),
)


class Clock:
    """Time of one thread by part, which does not count to the parts around it."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Start without any time, in the current thread; `now` returns seconds."""
        self._thread = threading.get_ident()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._now, self._parts, self._since = now, [REST], now()
        self._whole = 0

    @contextmanager
    def part(self, name: str, *, whole: bool = False) -> Iterator[None]:
        """Count the time inside this context to a part; with `whole` also that of other parts inside."""
        if self._whole or threading.get_ident() != self._thread:
            yield
            return
        self._turn()
        self._parts.append(name)
        self._whole += whole
        try:
            yield
        finally:
            self._turn()
            self._parts.pop()
            self._whole -= whole

    def _turn(self) -> None:
        now = self._now()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the time of a run went.

    Attributes:
        benchmark: Name of the benchmark.
        items: Items answered.
        batches: Batches in which they were asked.
        seconds: Time of each part, one value per turn.
    """

    benchmark: str
    items: int
    batches: int
    seconds: dict[str, tuple[float, ...]]

    def share(self, *parts: str) -> list[float]:
        """Return the share that parts have of the time without warm-up and mentions, one value per turn, in [0, 1]."""
        return [own / whole for own, whole in zip(self._sums(parts), self._sums((MODEL, *HARNESS)), strict=True)]

    def per_batch(self, part: str) -> str:
        """Return the milliseconds of a part for each batch, median of the turns, as text."""
        return f"{1000 * median(self.seconds[part]) / self.batches:.2f}"

    def _sums(self, parts: Sequence[str]) -> list[float]:
        return [sum(turn) for turn in zip(*(self.seconds[part] for part in parts), strict=True)]


def measure(lvlm: LVLM, scenes: int = SCENES, turns: int = TURNS, *, ahead: bool = False) -> list[Shares]:
    """Clock runs of the benchmarks with greedy decoding.

    Args:
        lvlm: The model.
        scenes: Number of drawn scenes.
        turns: Number of runs of each benchmark.
        ahead: Whether the next batch is read in a thread.
    """
    from mmhall.benchmarks.scenes import write_scenes

    measured = []
    with TemporaryDirectory() as folder:
        list(write_scenes(Path(folder) / "scenes", scenes, 0))
        source = Source(Path(folder) / "scenes" / "annotations.json")
        for name in BENCHMARKS:
            outs = [Path(folder) / f"{name}-{turn}" for turn in range(turns)]
            clocked = [_turn(lvlm, name, source, out, ahead=ahead) for out in outs]
            parts = (MODEL, MENTIONS, WARM_UP, *HARNESS)
            seconds = {part: tuple(clock.seconds[part] for clock, *_ in clocked) for part in parts}
            measured.append(Shares(name, *clocked[0][1:], seconds))
    return measured


def table(measured: Sequence[Shares]) -> list[tuple[str, ...]]:
    """Format milliseconds a batch and share of each part: medians of the turns, and the range of the harness."""
    lines = [("part", *(f"{each.benchmark}, {unit}" for each in measured for unit in ("ms", "%")))]
    for part in (MODEL, *HARNESS):
        cells = [(each.per_batch(part), f"{100 * median(each.share(part)):.2f}") for each in measured]
        lines.append((part, *chain(*cells)))
    shares = [[100 * share for share in each.share(*HARNESS)] for each in measured]
    whole = [("", f"{median(turns):.2f} [{min(turns):.2f}, {max(turns):.2f}]") for turns in shares]
    lines.append(("harness", *chain(*whole)))
    for part in (MENTIONS, WARM_UP):
        lines.append((f"not counted: {part}", *chain(*((each.per_batch(part), "") for each in measured))))
    return lines


def _turn(lvlm: LVLM, name: str, source: Source, out: Path, *, ahead: bool) -> tuple[Clock, int, int]:
    strategies = make_strategies(["greedy"])
    run = start(out, lvlm, benchmarks=[(make_benchmarks([name])[0], source)], strategies=strategies, batch_size=BATCH)
    (part,) = run.parts
    clock = Clock(time.thread_time if lvlm.adapter.device.type == "cpu" else time.perf_counter)
    with _clocked(clock, lvlm), clock.part(REST):
        runner.answer(lvlm, run, part, strategies, batch_size=BATCH, ahead=ahead)
    run.store.close()
    return clock, len(part.items), len(runner.batches(part.items, BATCH))


@contextmanager
def _clocked(clock: Clock, lvlm: LVLM) -> Iterator[None]:
    """Clock the functions that the runner calls, while this context lasts."""
    image_processor = type(lvlm.processor.image_processor)  # type: ignore[attr-defined]
    places: list[tuple[Any, str, str]] = [
        (model_module, "run", MODEL),
        (model_module, "build_answers", "text of answers"),
        (inputs, "make_requests", "opening pictures"),
        (image_processor, "preprocess", "processing pictures"),
        (type(lvlm.adapter), "inputs", "prompts and their tokens"),
        (inputs, "write_prompts", "prompts and their tokens"),
        (runner, "note_pictures", "noting pictures"),
        (runner, "measure_mentions", MENTIONS),
        (runner, "_warm_up", WARM_UP),
        (Store, "add", "store"),
        (Store, "read", "store"),
    ]
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(_replaced(owner, name, _timed(clock, getattr(owner, name), part)))
        writing = Store.writing

        @contextmanager
        def clocked_writing(store: Store) -> Iterator[Any]:
            with clock.part("leases"), writing(store) as connection:
                yield connection

        stack.enter_context(_replaced(Store, "writing", clocked_writing))
        yield


def _timed(clock: Clock, function: Callable[..., Any], part: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*arguments: Any, **options: Any) -> Any:
        with clock.part(part, whole=part in (MODEL, MENTIONS, WARM_UP, "noting pictures")):
            return function(*arguments, **options)

    return timed


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


def main() -> None:
    """Measure on this machine and print the table."""
    from mmhall.benchmarks.timing.speed import machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes to draw")
    parser.add_argument("--turns", type=int, default=TURNS, help="how often each benchmark is run")
    parser.add_argument("--ahead", action="store_true", help="read the next batch in a thread")
    options = parser.parse_args()
    lvlm = mmhall.load("embedded")
    if lvlm.adapter.device.type == "cpu":
        torch.set_num_threads(1)
    measured = measure(lvlm, options.scenes, options.turns, ahead=options.ahead)
    for first, *cells in table(measured):
        print(f"{first:<28}" + "".join(f"{cell:>12}" for cell in cells))
    counts = ", ".join(f"{each.items} items of {each.benchmark}" for each in measured)
    thread = "the next batch read in a thread" if options.ahead else "no thread beside"
    print(f"\nMilliseconds a batch of {BATCH}, and shares; medians of {options.turns} turns: {counts}.")
    print(f"Embedded model, greedy, {thread}.")
    print(machine(lvlm.model.device.type))


if __name__ == "__main__":
    main()
