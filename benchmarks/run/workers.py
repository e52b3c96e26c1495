"""Several processes on one run: each loads the model, leases batches from the store and answers them.

No process waits for another and none talks to another: what they share is the store. One that dies loses the
batch it was at, which another one takes; the parent starts it again, a few times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmhall
from mmhall.benchmarks.run.runner import Progress, answer
from mmhall.benchmarks.run.runs import Run, reopen
from mmhall.errors import MmhallError, OptionError, RunError
from mmhall.lvlm import LVLM
from mmhall.models import LoadOptions
from mmhall.strategies import strategy
from mmhall.text import without_home

STARTS = 6  # of one worker without an answer of anyone meanwhile, before the run is given up
_POLL = 0.2
_REFUSED = 2  # exit code of a worker that says why it cannot go on


@dataclass(frozen=True, slots=True)
class Model:
    """How a worker loads the model.

    Attributes:
        name: As `mmhall.load` takes it.
        tuned: As `mmhall.load` takes it.
        loading: The other options that it takes.
    """

    name: str
    tuned: str | bool | None = None
    loading: LoadOptions = field(default_factory=LoadOptions)

    def load(self, setup: Mapping[str, Any]) -> LVLM:
        """Load it for the run of a set-up.

        Raises:
            RunError: It is not the one the run was started with.
            MmhallError: It cannot be loaded.
        """
        lvlm = mmhall.load(self.name, tuned=self.tuned, **self.loading.arguments())  # type: ignore[arg-type]
        for key, value in lvlm.identity().items():
            if key != "device" and setup.get(key) != value:
                raise RunError(f"the run was started with {key} {setup.get(key)!r}, a worker has {value!r}")
        for name, expected in setup.get("artifacts", {}).items():
            artifact = lvlm.adapter.artifacts.get(name)
            if artifact is None or artifact.sha256 != expected["sha256"]:
                digest = None if artifact is None else artifact.sha256
                raise RunError(
                    f"the run was started with {name}'s artifact {expected['sha256']!r}, a worker has {digest!r}"
                )
        return lvlm


@dataclass(slots=True)
class _Worker:
    """A process, how often it was started since the run last got answers, and the file of what it says."""

    command: Sequence[str]
    worker_environment: Mapping[str, str]
    log: Path
    starts: int = 0
    settled: int = 0
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        self.starts += 1
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, env=self.worker_environment, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def last_message(self) -> str:
        """Wait for the end, and return the last line it said."""
        with self.process:
            self.process.wait()
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:  # the run folder has been deleted
            lines = []
        return lines[-1] if lines else f"exit code {self.process.returncode}"

    def stop(self) -> None:
        if self.starts and self.process.poll() is None:
            self.process.terminate()
            self.last_message()


@dataclass(frozen=True, slots=True)
class Job:
    """What is left of a run, for several workers.

    Attributes:
        run: As `start` returned it.
        model: What each worker loads.
        workers: How many.
        gpus: GPUs of each; without any they share the CPU's cores.
    """

    run: Run
    model: Model
    workers: int
    gpus: int = 1

    def here(self, progress: Progress = lambda answers: None) -> None:
        """Let processes of this machine do it.

        Args:
            progress: Called with the number of answers just settled, stored ones included.

        Raises:
            RunError: A worker cannot go on, or died too often.
        """
        tuned = "none" if self.model.tuned is False else str(self.model.tuned or "")
        folder = str(self.run.store.path.parent)
        loading = json.dumps(self.model.loading.given())
        command = [sys.executable, "-m", "mmhall.benchmarks.run.workers", folder, self.model.name, tuned, loading]
        team = [
            _Worker(command, worker_environment(n, self.workers, self.gpus), Path(folder) / f"worker-{n}.log")
            for n in range(self.workers)
        ]
        working, reported = list(team), 0
        try:
            for worker in team:
                worker.start()
            while working:
                time.sleep(_POLL)
                settled = self.run.settled
                progress(settled - reported)
                reported = settled
                working = [worker for worker in working if _keeps_running(worker, self.run)]
            progress(self.run.settled - reported)
        finally:
            for worker in team:
                worker.stop()

    def run_on_ray(self, address: str, progress: Progress = lambda answers: None) -> None:
        """Let actors of a Ray cluster do it.

        Raises:
            RunError: Ray is not installed, the cluster cannot be reached, or workers died too often.
        """
        from mmhall.benchmarks.run.cluster import answer_on_cluster

        answer_on_cluster(address, self.run, self.model, self.workers, self.gpus, progress)


def worker_environment(number: int, workers: int, gpus: int) -> dict[str, str]:
    """Give a worker its share of the machine: its own GPUs, or its part of the cores."""
    import torch

    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    if torch.cuda.is_available():
        devices = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
        devices = devices if devices != [""] else [str(index) for index in range(torch.cuda.device_count())]
        if gpus > len(devices):
            raise OptionError("bench", "gpus_per_worker", gpus, f"at most {len(devices)}, as many as there are GPUs")
        assigned = [devices[(number * gpus + index) % len(devices)] for index in range(gpus)]
        return {**env, "CUDA_VISIBLE_DEVICES": ",".join(assigned)}
    return {**env, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}


def _keeps_running(worker: _Worker, run: Run) -> bool:
    """Whether a worker still works, started again if it has died.

    Deaths count as long as nothing is settled between them: an item that kills its worker costs a few.

    Raises:
        RunError: It said why it cannot go on, or died too often.
    """
    code = worker.process.poll()
    if code is None:
        return True
    last = worker.last_message()
    if code == 0:
        return False
    if (settled := run.settled) > worker.settled:
        worker.starts, worker.settled = 1, settled
    if code == _REFUSED or worker.starts >= STARTS:
        died = "" if code == _REFUSED else f"a worker died {worker.starts} times; the last words were: "
        raise RunError(f"{died}{last.removeprefix('mmhall: ')}")
    worker.start()
    return True


def work(folder: Path, model: Model) -> None:
    """Answer batches of a run until none is left.

    Raises:
        MmhallError: The run or the model cannot be used.
    """
    run = reopen(folder)
    setup = run.store.setup()
    lvlm = model.load(setup)
    strategies = [strategy(spec) for spec in run.strategies]
    for part in run.parts:
        answer(lvlm, run, part, strategies, batch_size=setup["batch_size"])


def main() -> None:
    """Be one worker: mmhall.benchmarks.run.workers FOLDER MODEL TUNED LOADING, the last one JSON."""
    folder, name, tuned, loading = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # to die of it would be an item's strike
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        options = LoadOptions(**json.loads(loading))
        work(Path(folder), Model(name, False if tuned == "none" else tuned or None, options))
    except MmhallError as error:
        print(f"mmhall: {without_home(str(error))}", file=sys.stderr)
        sys.exit(_REFUSED)


def _exit_with_parent() -> None:
    """Wait for the end of what the parent holds open: it has died, however it did."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
