"""Workers that are forks of this process, on a tiny model: to kill them, and to let several share a run."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from mmhall.adapters import Batch
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import reopen, start
from mmhall.benchmarks.run.workers import Model
from mmhall.generation import Budget
from mmhall.results.store import Store
from mmhall.strategies import strategy
from tests.forks import ended, forked


@dataclass(frozen=True)
class Deadly(Model):
    """A model at whose sight of some pictures the process that asks is killed.

    Attributes:
        fatal: Contents of the pictures' files.
    """

    fatal: tuple[bytes, ...] = ()

    def load(self, setup):
        return deadly(super().load(setup), *self.fatal)


def deadly(lvlm, *fatal: bytes):
    """Kill the process in which a model is asked about a picture with one of these contents."""
    ask, pixels = lvlm.generate_batch, [Image.open(BytesIO(content)).convert("RGB").tobytes() for content in fatal]

    def asked(requests, *arguments, **options):
        if any(image.tobytes() in pixels for image in images_of(requests)):
            os.kill(os.getpid(), signal.SIGKILL)
        return ask(requests, *arguments, **options)

    lvlm.generate_batch = asked
    return lvlm


def images_of(requests) -> list[Image.Image]:
    """The pictures of requests, as a run makes them: a batch, or pairs of path and prompt where one cannot be read."""
    if isinstance(requests, Batch):
        return [image for request in requests.requests for image in request.images]
    return [Image.open(path).convert("RGB") for path, _ in requests if path is not None and is_picture(path)]


def is_picture(path) -> bool:
    try:
        Image.open(path).load()
    except (OSError, SyntaxError):
        return False
    return True


STRATEGIES = [strategy("greedy"), strategy("vdd(beta=0.5)")]
BATCH = 3
NARROW = Budget(BATCH, positions=300)


def begin(lvlm, folder: Path, scenes: Path, *, questions: bool = True) -> None:
    source = Source(scenes / "annotations.json")
    benchmarks = [(Pope(max_new_tokens=2), source)] if questions else []
    benchmarks.append((Chair(max_new_tokens=4), source))
    run = start(folder, lvlm, benchmarks=benchmarks, strategies=STRATEGIES, batch_size=BATCH)
    run.store.close()  # SQLite's locks do not survive a fork: no process may fork with an open run


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """What a run has stored of its answers, but for costs."""
    read = "select benchmark, item, strategy, text, stopped_by, new_tokens, batch from answers order by 1, 2, 3"
    with closing(Store.open(folder)) as store:
        return store.read(read)


def child(lvlm, folder: Path, budget: Budget | None = None) -> int:
    """Fork a worker."""

    def work() -> int:
        run = reopen(folder)
        for part in run.parts:
            answer(lvlm, run, part, STRATEGIES, batch_size=BATCH, budget=budget)
        return 0

    return forked(work)


def kills(lvlm, base: Path, scenes: Path, wanted: int, *, budget: Budget | None = None) -> int:
    """Kill workers at random moments, in run after run, until it was done so often; return in how many runs."""
    began = time.monotonic()
    together(lvlm, base / "run-0", scenes, 1, budget=budget)
    half = (time.monotonic() - began) / 2  # of the time of a whole run: no item is met thrice, however slow this is
    moment, count, runs = random.Random(0), 0, 1
    while count < wanted:
        folder = base / f"run-{runs}"
        begin(lvlm, folder, scenes)
        runs, longest = runs + 1, half
        while True:
            pid = child(lvlm, folder, budget)
            time.sleep(moment.uniform(0.0, longest))
            longest *= 1.05  # the run ends
            os.kill(pid, signal.SIGKILL)
            code = ended(pid)
            if code == 0:
                break
            assert code == -signal.SIGKILL, code
            count += 1
    return runs


def together(lvlm, folder: Path, scenes: Path, workers: int, *, budget: Budget | None = None) -> None:
    """Let several workers share a run."""
    begin(lvlm, folder, scenes)
    codes = [ended(pid) for pid in [child(lvlm, folder, budget) for _ in range(workers)]]
    assert codes == [0] * workers, codes
