"""Worker processes of a run: each loads the model, leases batches from the store and answers them.

The processes share only the store, and do not wait for each other. If a process dies, another one takes its
batch, and the parent restarts it, a few times.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mmhall
from mmhall.benchmarks.run.runner import Progress, answer
from mmhall.benchmarks.run.runs import Run, reopen
from mmhall.errors import MmhallError, OptionError, RunError
from mmhall.generation import Budget
from mmhall.lvlm import LVLM
from mmhall.models import LoadOptions
from mmhall.strategies import strategy
from mmhall.text import without_home

STARTS = 6  # starts of one worker, without any new answer, after which the run is given up
_POLL = 0.2
_REFUSED = 2  # exit code of a worker that has printed an error of mmhall


@dataclass(frozen=True, slots=True)
class Model:
    """The model of a worker and its loading options.

    Attributes:
        name: Model, as `mmhall.load` takes it.
        tuned: Tuned options, as `mmhall.load` takes them.
        loading: Other options of `mmhall.load`.
    """

    name: str
    tuned: str | bool | None = None
    loading: LoadOptions = field(default_factory=LoadOptions)

    def load(self, setup: Mapping[str, Any]) -> LVLM:
        """Load the model, and check it against the set-up of a run.

        Raises:
            RunError: The model differs from the run's model.
            MmhallError: The model cannot be loaded.
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
    """A worker process, its number of starts since the last new answer, and its log file."""

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
        """Wait for the end of the process, and return the last line of its log."""
        with self.process:
            self.process.wait()
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:  # the run folder was deleted
            lines = []
        return lines[-1] if lines else f"exit code {self.process.returncode}"

    def stop(self) -> None:
        if self.starts and self.process.poll() is None:
            self.process.terminate()
            self.last_message()


@dataclass(frozen=True, slots=True)
class Job:
    """The unanswered part of a run, for several workers.

    Attributes:
        run: The run, from `start`.
        model: Model of each worker.
        workers: Number of workers.
        gpus: GPUs of each worker; without GPUs the workers share the CPU cores.
        budget: What each worker may decode of a batch at a time; None: all of it.
    """

    run: Run
    model: Model
    workers: int
    gpus: int = 1
    budget: Budget | None = None

    def here(self, progress: Progress = lambda answers: None) -> None:
        """Answer with processes on this machine.

        Args:
            progress: Called with the number of new answers and failures; at first with that of stored answers.

        Raises:
            RunError: A worker has stopped with an error, or died too often.
        """
        tuned = "none" if self.model.tuned is False else str(self.model.tuned or "")
        folder = str(self.run.store.path.parent)
        loading = json.dumps(self.model.loading.non_defaults())
        budget = json.dumps(None if self.budget is None else asdict(self.budget))
        program = [sys.executable, "-m", "mmhall.benchmarks.run.workers"]
        command = [*program, folder, self.model.name, tuned, loading, budget]
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
        """Answer with actors on a Ray cluster.

        Raises:
            RunError: Ray is not installed, the cluster cannot be reached, or workers died too often.
        """
        from mmhall.benchmarks.run.cluster import answer_on_cluster

        answer_on_cluster(address, self, progress)


def worker_environment(number: int, workers: int, gpus: int) -> dict[str, str]:
    """Return the environment variables of a worker: its own GPUs, or its share of the cores."""
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
    """Tell whether a worker still works; restart it if it has died.

    Deaths are counted since the last new answer or failure: an item that kills its worker causes several.

    Raises:
        RunError: The worker has stopped with an error, or died too often.
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
        died = "" if code == _REFUSED else f"a worker died {worker.starts} times; the last output was: "
        raise RunError(f"{died}{last.removeprefix('mmhall: ')}")
    worker.start()
    return True


def work(folder: Path, model: Model, budget: Budget | None = None) -> None:
    """Answer the batches of a run until none is left.

    Raises:
        MmhallError: The run or the model cannot be used.
    """
    run = reopen(folder)
    setup = run.store.setup()
    lvlm = model.load(setup)
    strategies = [strategy(spec) for spec in run.strategies]
    for part in run.parts:
        answer(lvlm, run, part, strategies, batch_size=setup["batch_size"], budget=budget)


def main() -> None:
    """Run one worker process: mmhall.benchmarks.run.workers FOLDER MODEL TUNED LOADING BUDGET, the last two in JSON."""
    folder, name, tuned, loading, limits = sys.argv[1:]
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # a signal's death would count as an item's strike
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        options, limits = LoadOptions(**json.loads(loading)), json.loads(limits)
        budget = None if limits is None else Budget(**limits)
        work(Path(folder), Model(name, False if tuned == "none" else tuned or None, options), budget)
    except MmhallError as error:
        print(f"mmhall: {without_home(str(error))}", file=sys.stderr)
        sys.exit(_REFUSED)


def _exit_with_parent() -> None:
    """Exit when the standard input closes, which happens when the parent has died."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
