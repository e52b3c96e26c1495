"""Runs on a Ray cluster: each worker is an actor with a model; only the driver writes to the store.

An actor gets a batch with pictures as bytes, and returns rows: nodes need mmhall and the model, but no shared disk. If
an actor dies, another one gets its batch, and it is replaced, a few times; an item that kills its actor each time
is isolated and given up as in `runner`. Actors never wait for each other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from mmhall.benchmarks import benchmark as make_benchmark
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.run.inputs import BatchInputs
from mmhall.benchmarks.run.pictures import note_pictures
from mmhall.benchmarks.run.runner import Progress, answers, batches, split_batch
from mmhall.benchmarks.run.runs import Part
from mmhall.benchmarks.run.workers import STARTS, Job, Model
from mmhall.errors import MmhallError, RunError
from mmhall.generation import Budget
from mmhall.results.leases import Leases
from mmhall.results.store import Row
from mmhall.strategies import strategy

PATIENCE = 25.0  # timeout of a cluster's address in seconds; with the start of Python half a minute
_WAIT = 1.0  # seconds between two polls of the actors
_PROBE = """
import sys
import ray

try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    sys.exit((str(error).strip() or type(error).__name__).splitlines()[0])
"""


class Answerer:
    """A worker with a model, which answers batches."""

    def __init__(self, model: Model, setup: Mapping[str, Any], budget: Budget | None) -> None:
        """Set the model to load, and what may be decoded of a batch at a time."""
        self._model, self._setup, self._budget = model, setup, budget

    def load(self) -> None:
        """Load the model.

        Raises:
            RunError: The model cannot be loaded, or differs from the run's model.
        """
        try:
            self._lvlm = self._model.load(self._setup)
        except MmhallError as error:
            raise RunError(str(error)) from None  # an error of one argument can be pickled

    def answer(
        self,
        spec: str,
        items: Sequence[Mapping[str, Any]],
        pictures: Mapping[str, tuple[str, bytes | None]],
        strategies: Sequence[str],
        number: int,
        done: set[tuple[str, str]],
    ) -> list[Row]:
        """Answer a batch.

        Args:
            spec: The benchmark with its options, as text.
            items: Fields of each item.
            pictures: Picture id to its original file name and content; content None: unreadable.
            strategies: All strategies of the run.
            number: Number of the batch.
            done: (item, strategy) pairs with an answer.

        Raises:
            RunError: A strategy does not work with the model.
        """
        with tempfile.TemporaryDirectory() as folder:
            files, names = {}, {}
            for at, (name, (file, content)) in enumerate(pictures.items()):
                files[name] = Path(folder) / f"{at}{Path(file).suffix}"
                names[str(files[name])] = file
                if content is not None:
                    files[name].write_bytes(content)
            batch = [Item(**item) for item in items]
            part = Part(make_benchmark(spec), batch, files)
            methods = [strategy(text) for text in strategies]
            try:
                inputs = BatchInputs(self._lvlm, part, batch)
                rows = list(chain.from_iterable(answers(inputs, methods, number, done, self._budget)))
            except MmhallError as error:
                raise RunError(str(error)) from None
        return [row if row.error is None else replace(row, error=_restore_paths(row.error, names)) for row in rows]


def _restore_paths(text: str, names: Mapping[str, str]) -> str:
    """Replace temporary paths of pictures by the original paths in an error text."""
    for copy, original in names.items():
        text = text.replace(copy, original)
    return text


def answer_on_cluster(address: str, job: Job, progress: Progress) -> None:
    """Generate the missing answers of a run on a Ray cluster.

    Args:
        address: Address of the cluster, as `ray.init` takes it.
        job: The run, with the model of each worker, whose folder must exist on every node. Each worker is an actor; its
            GPUs are ignored if the cluster has none.
        progress: Called with the number of new answers and failures; at first with that of stored answers.

    Raises:
        RunError: Ray is not installed, the cluster cannot be reached, or workers died too often.
        MmhallError: A worker cannot use the model.
    """
    with connect(address) as ray:
        most = max(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"])
        if 0 < most < job.gpus:
            raise RunError(f"{address}: no node has {job.gpus} GPUs, at most {most:g}; lower --gpus-per-worker")
        share = job.gpus if most else 0
        kind = ray.remote(num_cpus=1, num_gpus=share, max_restarts=0)(Answerer)
        team = _Team(ray, kind, job)
        progress(job.run.answered)
        for part in job.run.parts:
            team.answer(part, progress)


@dataclass(slots=True)
class _Batch:
    """A batch that a worker answers.

    Attributes:
        number: Number of the batch.
        pieces: Groups of items left to ask, each asked together; the first is being asked.
    """

    number: int
    pieces: list[list[Item]]


@dataclass(frozen=True, slots=True)
class _WorkerDeath:
    """The death of a worker, in place of its result.

    Attributes:
        reason: The error of Ray.
    """

    reason: Exception


class _Team:
    """The actors of one run."""

    def __init__(self, ray: Any, kind: Any, job: Job) -> None:
        self._ray, self._kind, self._job, self._run = ray, kind, job, job.run
        self._setup = job.run.store.setup()
        self._strategies = [strategy(spec) for spec in job.run.strategies]
        self._most, self._deaths = STARTS * job.workers, 0  # without an answer between them
        self._idle: list[Any] = []
        self._loading: dict[Any, Any] = {}
        self._working: dict[Any, tuple[Any, _Batch]] = {}
        for _ in range(job.workers):
            self._start_worker()

    def _start_worker(self) -> None:
        """Start a worker; it gets its first batch once its model is loaded."""
        actor = self._kind.remote(self._job.model, self._setup, self._job.budget)
        self._loading[actor.load.remote()] = actor

    def answer(self, part: Part, progress: Progress) -> None:
        """Distribute the batches of a benchmark until all are answered."""
        made_batches = batches(part.items, self._setup["batch_size"])
        leases = Leases(self._run.store, part.benchmark.name, len(made_batches))
        while self._working or leases.has_free_batch():
            while self._idle and (number := leases.claim()) is not None:
                done = self._run.store.done_in(part.benchmark.name, number)
                pieces, given_up = split_batch(leases, part, made_batches[number], self._strategies, number, done)
                self._run.store.add(given_up)
                self._deaths = 0 if given_up else self._deaths  # they had a reason
                progress(len(given_up))
                self._send_next_piece(self._idle.pop(), part, _Batch(number, pieces), leases)
            leases.renew()
            waited = [*self._working, *self._loading]
            if not waited:  # another process was quicker
                continue
            ready, _ = self._ray.wait(waited, timeout=_WAIT)
            for reference in ready:
                if reference in self._loading:
                    actor = self._loading.pop(reference)
                    if isinstance(result := self._receive(reference), _WorkerDeath):
                        self._replace(result)
                    else:
                        self._idle.append(actor)
                else:
                    self._store_result(reference, part, leases, progress)

    def _send_next_piece(self, actor: Any, part: Part, batch: _Batch, leases: Leases) -> None:
        """Send a worker the next piece of its batch; without one, finish the batch."""
        if batch.pieces:
            self._working[self._send(actor, part, batch.pieces[0], batch.number)] = actor, batch
        else:
            leases.finish(batch.number)
            self._idle.append(actor)

    def _store_result(self, reference: Any, part: Part, leases: Leases, progress: Progress) -> None:
        """Store a worker's answers; if the worker died, add strikes to its items and release its batch."""
        actor, batch = self._working.pop(reference)
        piece, rows = batch.pieces.pop(0), self._receive(reference)
        if isinstance(rows, _WorkerDeath):
            leases.strike(batch.number, [item.id for item in piece])
            leases.drop(batch.number)
            self._replace(rows)
            return
        self._run.store.add(rows)
        if any(row.error is None for row in rows):
            self._deaths = 0
        progress(len(rows))
        self._send_next_piece(actor, part, batch, leases)

    def _send(self, actor: Any, part: Part, items: Sequence[Item], number: int) -> Any:
        note_pictures(self._run.store, part, items)
        names = {item.picture for item in items if item.picture is not None}
        pictures = {name: (str(part.pictures[name]), _content(part.pictures[name])) for name in sorted(names)}
        done = self._run.store.done_in(part.benchmark.name, number)
        fields = [asdict(item) for item in items]
        return actor.answer.remote(str(part.benchmark), fields, pictures, self._run.strategies, number, done)

    def _receive(self, reference: Any) -> Any:
        """Return a worker's result, or its death.

        Raises:
            RunError: The worker has raised an error of mmhall.
        """
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MmhallError):
                raise RunError(str(error.cause)) from None
            raise
        except self._ray.exceptions.RayActorError as error:
            return _WorkerDeath(error)

    def _replace(self, death: _WorkerDeath) -> None:
        """Replace a dead worker.

        Raises:
            RunError: Workers died too often.
        """
        self._deaths += 1
        if self._deaths >= self._most:
            last = str(death.reason).splitlines()[0]
            raise RunError(f"workers died too often; the last error was: {last}") from death.reason
        self._start_worker()


def _content(file: Path) -> bytes | None:
    """Return the content of a file; None if unreadable, so that opening the picture reports the reason."""
    try:
        return file.read_bytes()
    except OSError:
        return None


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """Connect to a Ray cluster, unless this process is connected already.

    Args:
        address: Address of the cluster, as `ray.init` takes it.

    Raises:
        RunError: Ray is not installed, or no cluster answers within half a minute.
    """
    try:
        import ray
    except ImportError as error:
        raise RunError('engine "ray" needs Ray; install mmhall[ray]') from error
    opened_here = not ray.is_initialized()
    if opened_here:
        _check_reachable(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError) as error:  # it went meanwhile
            raise RunError(f"{address}: the Ray cluster no longer answers: {error}; start it again") from error
    try:
        yield ray
    finally:
        if opened_here:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Check that a cluster answers at an address.

    A separate process connects, as Ray may wait for minutes, and may end the waiting process.

    Raises:
        RunError: No cluster answers within half a minute.
    """
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, address], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        reason = f"there is no answer after {PATIENCE:g} seconds"
    else:
        if probe.returncode == 0:
            return
        messages = probe.stderr.decode(errors="replace").strip().splitlines()
        reason = messages[-1] if probe.returncode == 1 and messages else f"Ray ended with code {probe.returncode}"
    raise RunError(f"{address}: no Ray cluster can be reached there: {reason}; start one, or correct --address")
