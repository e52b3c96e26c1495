"""Timing of several workers of one run: python -m mmhall.benchmarks.timing.scale.

Two limits of a run with many workers. The store: processes lease batches, commit answers and finish batches as workers
do, with no model in between, so that they wait for nothing but each other. The workers: items per second that the
embedded model answers with two workers over one, a thread each, in turns; models are loaded before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import mmhall
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import make_benchmarks, make_strategies, reopen, start
from mmhall.results.leases import Leases
from mmhall.results.store import Row, Store

ITEMS, BATCH, STRATEGIES = 9000, 16, ("greedy", "vcd")
BENCHMARKS, SCENES, TURNS, PROCESSES = ("pope", "chair"), 64, 3, (1, 2, 4, 8)
_FEW = 4  # items of a batch where workers are timed: many batches, so that the last one of a benchmark counts little
_TEXT = "There is a dog on the left of a red ball, and a cat behind it. " * 8  # a caption of 500 characters
_PATIENCE = 300.0  # seconds to wait for a process to load its model
_spawn = multiprocessing.get_context("spawn")
_barrier: Barrier  # of a process that is timed


@dataclass(frozen=True, slots=True)
class Span:
    """When a process worked, in seconds of the machine's monotonic clock, and its longest time for one batch."""

    began: float
    ended: float
    slowest: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreRate:
    """What a store takes from several processes.

    Attributes:
        processes: Number of processes.
        batches: Batches leased, committed and finished in a second, by all together.
        slowest: Longest time for one batch, in seconds, waiting for others included.
    """

    processes: int
    batches: float
    slowest: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a second worker brings.

    Attributes:
        items: Number of items, each answered with all strategies.
        seconds: Time with one worker, a value per turn.
        ratios: Items per second with two workers over one, a value per turn.
    """

    items: int
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]


def measure_store(processes: int, items: int = ITEMS) -> StoreRate:
    """Time processes that do with a new store all that workers do.

    Args:
        processes: Number of processes.
        items: Number of items, each answered with two strategies.
    """
    count = -(-items // BATCH)
    with TemporaryDirectory() as folder:
        Store.create(Path(folder), {"strategies": list(STRATEGIES)}).close()
        spans = _together(_fill_store, processes, folder, count)
    return StoreRate(processes, count / _seconds(spans), max(span.slowest for span in spans))


def measure_workers(
    scenes: int = SCENES, turns: int = TURNS, progress: Callable[[str], None] = lambda line: None
) -> Scaling:
    """Time one worker and two on the same drawn scenes, in alternating order.

    Args:
        scenes: Number of drawn scenes.
        turns: Number of timed turns.
        progress: Called with a line after each turn.
    """
    from mmhall.benchmarks.scenes import write_scenes

    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    lvlm = mmhall.load("embedded")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with TemporaryDirectory() as folder:
        list(write_scenes(Path(folder) / "scenes", scenes, 0))
        source = Source(Path(folder) / "scenes" / "annotations.json")
        benchmarks = [(benchmark, source) for benchmark in make_benchmarks(BENCHMARKS)]
        for turn in range(turns):
            for workers in (1, 2) if turn % 2 else (2, 1):
                out = Path(folder) / f"{workers}-{turn}"
                strategies = make_strategies(STRATEGIES)
                run = start(out, lvlm, benchmarks=benchmarks, strategies=strategies, batch_size=_FEW)
                items = sum(len(part.items) for part in run.parts)
                run.store.close()
                seconds[workers].append(_seconds(_together(_answer_run, workers, str(out))))
            progress(f"turn {turn + 1} of {turns}")
    ratios = tuple(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    return Scaling(items, tuple(seconds[1]), ratios)


def table(rates: Sequence[StoreRate]) -> list[tuple[str, ...]]:
    """Format the rates of the store as rows of cells, the header first."""
    header = ("PROCESSES", "BATCHES A SECOND", "ANSWERS A SECOND", "SLOWEST BATCH, MS")
    answers = BATCH * len(STRATEGIES)
    return [
        header,
        *(
            (str(r.processes), f"{r.batches:.0f}", f"{r.batches * answers:.0f}", f"{1000 * r.slowest:.0f}")
            for r in rates
        ),
    ]


def _fill_store(folder: str, count: int) -> Span:
    """Do all that a worker does with a store, batch by batch."""
    store = Store.open(Path(folder))
    leases = Leases(store, "pope", count)
    _barrier.wait(_PATIENCE)
    began = last = time.monotonic()
    slowest = 0.0
    while not leases.is_finished() and (number := leases.claim()) is not None:
        store.done_in("pope", number)
        for items in leases.pieces(number, [f"item-{number}-{place}" for place in range(BATCH)]):
            with leases.note_asked(number, items):
                store.done_in("pope", number)
                for strategy in STRATEGIES:
                    store.add([Row("pope", item, strategy, _TEXT, "eos", 100, 1.0, number) for item in items])
                    leases.renew()
        leases.finish(number)
        now = time.monotonic()
        slowest, last = max(slowest, now - last), now
    return Span(began, last, slowest)


def _answer_run(folder: str) -> Span:
    """Work on a run, as a worker of `mmhall bench` does, from the moment on when all have loaded their model."""
    import torch

    torch.set_num_threads(1)
    run = reopen(Path(folder))
    setup, strategies = run.store.setup(), make_strategies(STRATEGIES)
    lvlm = mmhall.load("embedded")
    _barrier.wait(_PATIENCE)
    began = time.monotonic()
    for part in run.parts:
        answer(lvlm, run, part, strategies, batch_size=setup["batch_size"])
    return Span(began, time.monotonic())


def _together(work: Callable[..., Span], processes: int, *arguments: object) -> list[Span]:
    """Have several processes do the same, from one moment on."""
    with ProcessPoolExecutor(processes, _spawn, _set_barrier, (_spawn.Barrier(processes),)) as pool:
        return [each.result() for each in [pool.submit(work, *arguments) for _ in range(processes)]]


def _set_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _seconds(spans: Sequence[Span]) -> float:
    return max(span.ended for span in spans) - min(span.began for span in spans)


def main() -> None:
    """Measure on this machine and print the figures."""
    from mmhall.benchmarks.timing.speed import machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS, help="how often one worker and two are timed; 0: not")
    options = parser.parse_args()
    for row in table([measure_store(processes) for processes in PROCESSES]):
        print("  ".join(f"{cell:<18}" for cell in row).rstrip())
    print(f"\nA run of {ITEMS} items, batches of {BATCH}, {len(STRATEGIES)} strategies.")
    if options.turns:
        scaling = measure_workers(turns=options.turns, progress=lambda line: print(line, file=sys.stderr))
        ratio = f"{median(scaling.ratios):.2f} ({min(scaling.ratios):.2f}-{max(scaling.ratios):.2f})"
        print(f"\nItems per second with two workers over one, a thread each: {ratio},")
        print(f"median and range of {options.turns} turns; {', '.join(STRATEGIES)} on {' and '.join(BENCHMARKS)},")
        print(f"{scaling.items} items, batches of {_FEW}, in {median(scaling.seconds):.0f} s by one; embedded model.")
    print(machine("cpu"))


if __name__ == "__main__":
    main()
