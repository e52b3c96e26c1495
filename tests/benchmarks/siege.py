"""A process that loads a tiny model once and forks workers: to kill them, and to let several share a run.

python -m tests.benchmarks.siege MODE FOLDER MODEL ...
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import mmhall
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import reopen, start
from mmhall.benchmarks.run.workers import Model
from mmhall.strategies import strategy


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
    ask = lvlm.generate_batch

    def asked(requests, *arguments, **options):
        if any(path is not None and Path(path).read_bytes() in fatal for path, _ in requests):
            os.kill(os.getpid(), signal.SIGKILL)
        return ask(requests, *arguments, **options)

    lvlm.generate_batch = asked
    return lvlm


STRATEGIES = [strategy("greedy"), strategy("vdd(beta=0.5)")]
BATCH = 3


def begin(lvlm, folder: Path, scenes: Path, *, questions: bool = True) -> None:
    source = Source(scenes / "annotations.json")
    benchmarks = [(Pope(max_new_tokens=2), source)] if questions else []
    benchmarks.append((Chair(max_new_tokens=4), source))
    run = start(folder, lvlm, benchmarks=benchmarks, strategies=STRATEGIES, batch_size=BATCH)
    run.store.close()  # SQLite's locks do not survive a fork: no process may fork with an open run


def child(lvlm, folder: Path) -> int:
    """Fork a worker."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run = reopen(folder)
            for part in run.parts:
                answer(lvlm, run, part, STRATEGIES, batch_size=BATCH)
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kills(lvlm, base: Path, scenes: Path, wanted: int) -> int:
    """Kill workers at random moments, in run after run, until it was done so often; return in how many runs."""
    moment, count, runs = random.Random(0), 0, 0
    while count < wanted:
        folder = base / f"run-{runs}"
        begin(lvlm, folder, scenes)
        runs, longest = runs + 1, 0.4
        while True:
            pid = child(lvlm, folder)
            time.sleep(moment.uniform(0.0, longest))
            longest *= 1.05  # on a slow machine, too, the run ends
            os.kill(pid, signal.SIGKILL)
            code = ended(pid)
            if code == 0:
                break
            assert code == -signal.SIGKILL, code
            count += 1
    return runs


def together(lvlm, folder: Path, scenes: Path, workers: int) -> None:
    """Let several workers share a run."""
    begin(lvlm, folder, scenes)
    codes = [ended(pid) for pid in [child(lvlm, folder) for _ in range(workers)]]
    assert codes == [0] * workers, codes


def main() -> None:
    mode, base, scenes, model, *numbers = sys.argv[1:]
    torch.set_num_threads(1)  # a fork keeps no other thread
    lvlm = mmhall.load(model, device="cpu")
    if mode == "kills":
        print(kills(lvlm, Path(base), Path(scenes), int(numbers[0])))
    else:
        for number in numbers:
            together(lvlm, Path(base) / number, Path(scenes), int(number))


if __name__ == "__main__":
    main()
