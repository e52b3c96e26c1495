"""Runs that are killed, shared and spread give the rows of an undisturbed one: none lost, none double."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

import mmhall
from mmhall.benchmarks.run import cluster as cluster_module, workers as workers_module
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import reopen
from mmhall.benchmarks.run.workers import Job, Model, _Worker
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import MmhallError, RunError
from mmhall.models._options import LoadOptions
from mmhall.results.leases import Leases
from tests.benchmarks import siege
from tests.benchmarks.siege import rows
from tests.conftest import make_random_llava
from tests.forks import ForkedProgram, ended, forked

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 4, 0))
    return folder


@pytest.fixture(scope="module")
def model(model_folder):
    return mmhall.load(model_folder)


@pytest.fixture(scope="module")
def undisturbed(model, scenes, tmp_path_factory):
    return answered(model, scenes, tmp_path_factory.mktemp("whole"))


def answered(lvlm, scenes, folder):
    """The rows of a run that this process has answered."""
    siege.begin(lvlm, folder, scenes)
    run = reopen(folder)
    for part in run.parts:
        answer(lvlm, run, part, siege.STRATEGIES, batch_size=siege.BATCH)
    return rows(folder)


@pytest.mark.slow
def test_kills_lose_nothing_and_double_nothing(undisturbed, scenes, model, tmp_path):
    """Workers are killed four times, at random moments; as often as the environment's MMHALL_KILLS says."""
    runs = siege.kills(model, tmp_path, scenes, int(os.environ.get("MMHALL_KILLS", "4")))
    for number in range(runs):
        assert rows(tmp_path / f"run-{number}") == undisturbed


@pytest.mark.slow
def test_several_processes_share_a_run(undisturbed, scenes, model, tmp_path):
    siege.together(model, tmp_path / "run", scenes, 3)
    assert rows(tmp_path / "run") == undisturbed


def begun(scenes, lvlm, folder, *, questions=True):
    siege.begin(lvlm, folder, scenes, questions=questions)
    return reopen(folder)


@pytest.mark.long
@pytest.mark.slow
def test_workers_load_as_they_are_told_and_may_talk_a_lot(scenes, model_folder, tmp_path, monkeypatch):
    """Libraries may write megabytes to stderr; it lands in a log in the run folder."""
    noise = tmp_path / "noise"
    noise.mkdir()
    (noise / "sitecustomize.py").write_text("import sys\nsys.stderr.write('warning\\n' * 200_000)\n")
    monkeypatch.setenv("PYTHONPATH", f"{noise}:{ROOT}")
    half = mmhall.load(model_folder, dtype="float16")
    wanted = answered(half, scenes, tmp_path / "whole")
    run, told = begun(scenes, half, tmp_path / "run"), []
    Job(run, Model(str(model_folder), None, LoadOptions(dtype="float16")), 1).here(told.append)
    assert rows(tmp_path / "run") == wanted
    assert sum(told) == len(wanted)
    assert (tmp_path / "run" / "worker-0.log").stat().st_size > 1_000_000


@pytest.fixture
def started(monkeypatch):
    """Workers are forks of this process that run the same `main`; returns those that were started."""
    programs = []

    def start(command, env, stdin, stdout, stderr):
        assert command[:3] == [sys.executable, "-m", workers_module.__name__]
        programs.append(ForkedProgram(workers_module.main, command[2:], env, stdout))
        return programs[-1]

    monkeypatch.setattr(workers_module, "subprocess", SimpleNamespace(PIPE=subprocess.PIPE, Popen=start))
    monkeypatch.setattr(workers_module, "_POLL", 0.01)
    return programs


class Glimpsed:
    """A run that is open only while it is looked at: SQLite's locks do not survive a fork."""

    def __init__(self, folder):
        self.store = SimpleNamespace(path=folder / "run.sqlite")

    @property
    def settled(self):
        run = reopen(self.store.path.parent)
        with closing(run.store):
            return run.settled


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(undisturbed, scenes, model, model_folder, tmp_path, started):
    siege.begin(model, tmp_path / "run", scenes)
    told, killed = [], []

    def kill_the_first(count):
        told.append(count)
        if sum(told) and not killed:
            os.kill(started[0].pid, signal.SIGKILL)
            killed.append(sum(told))

    Job(Glimpsed(tmp_path / "run"), Model(str(model_folder)), 1).here(kill_the_first)
    assert rows(tmp_path / "run") == undisturbed
    assert sum(told) == len(undisturbed) > killed[0]
    assert [program.returncode for program in started] == [-signal.SIGKILL, 0]


@pytest.fixture(scope="module")
def other_folder(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    make_random_llava(processor, seed=1).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_worker_with_another_model_says_so(scenes, model, model_folder, other_folder, tmp_path, started):
    run = begun(scenes, model, tmp_path / "run")
    with pytest.raises(RunError, match="was started with dtype 'float32', a worker has 'float16'"):
        Model(str(model_folder), None, LoadOptions(dtype="float16")).load(run.store.setup())
    with pytest.raises(RunError, match=r"^the run was started with model"):
        Job(Glimpsed(tmp_path / "run"), Model(str(other_folder)), 1).here()
    assert [program.returncode for program in started] == [2]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"processor": {"do_rescale": True}}, r'loading was \[\], now \["processor={\\"do_rescale\\": true}"\]'),
        ({"device_map": {"": "cpu"}}, "loading was"),
        ({"attn_implementation": "eager"}, "loading was"),
        ({"dtype": "float16"}, 'dtype was "float32", now "float16"'),
        ({"chat_template": "{{ messages[0].content[-1].text }}"}, "chat_template was"),
    ],
    ids=str,
)
def test_a_run_goes_on_with_a_model_that_is_loaded_alike(scenes, model, model_folder, tmp_path, options, told):
    plain, other = model, mmhall.load(model_folder, **options)
    siege.begin(plain, tmp_path / "plain", scenes)
    siege.begin(other, tmp_path / "other", scenes)
    siege.begin(other, tmp_path / "other", scenes)
    with pytest.raises(RunError, match=told):
        siege.begin(other, tmp_path / "plain", scenes)
    with pytest.raises(RunError, match="belongs to another set-up"):
        siege.begin(plain, tmp_path / "other", scenes)


@contextmanager
def cluster(nodes):
    """Start a Ray cluster with room for a worker on each node; yield its address."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            started.add_node(num_cpus=1)
        yield started.address
    finally:
        ray.shutdown()
        started.shutdown()


class Actors:
    """What is used of Ray, without it: actors of this process that do each task in a fork, when it is waited for."""

    def __init__(self):
        self.exceptions = SimpleNamespace(RayTaskError=TaskError, RayActorError=ActorError)
        self.started = 0

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 1.0}}]

    def remote(self, **resources):
        assert resources == {"num_cpus": 1, "num_gpus": 0, "max_restarts": 0}

        def start(kind, *arguments):
            self.started += 1
            actor = kind(*copied(arguments))
            answer = SimpleNamespace(remote=lambda *given: partial(in_a_fork, actor.answer, *copied(given)))
            return SimpleNamespace(load=SimpleNamespace(remote=lambda: actor.load), answer=answer)

        return lambda kind: SimpleNamespace(remote=partial(start, kind))

    def wait(self, references, timeout):
        return references[-1:], references[:-1]

    def get(self, reference):
        try:
            return reference()
        except MmhallError as error:
            raise TaskError(copied(error)) from None


class ActorError(Exception):
    """An actor has died."""


class TaskError(Exception):
    """A task has raised its cause."""

    def __init__(self, cause):
        self.cause = cause


def copied(what):
    """Return what arrives of something that is sent."""
    return pickle.loads(pickle.dumps(what))


def in_a_fork(work, *arguments):
    reading, writing = os.pipe()

    def child():
        with os.fdopen(writing, "wb") as told:
            pickle.dump(work(*arguments), told)
        return 0

    pid = forked(child)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        result = told.read()
    if ended(pid):
        raise ActorError("the actor died")
    return pickle.loads(result)


@pytest.fixture
def actors(monkeypatch):
    made = Actors()
    monkeypatch.setattr(cluster_module, "connect", lambda address: nullcontext(made))
    return made


def answer_what_kills_and_what_is_gone(folder, lvlm, scenes, model_folder, strikes, address):
    """Let two workers answer captions; one picture is gone, one kills whoever asks it and has strikes already.

    Returns:
        Items that were given up and why, and what was answered.
    """
    for file in scenes.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    run = begun(folder, lvlm, folder / "run", questions=False)
    gone, fatal = folder / "000003.png", (folder / "000002.png").read_bytes()
    gone.unlink()
    leases = Leases(run.store, "chair", 2)
    for _ in range(strikes):
        leases.strike(0, ["2"])
    Job(run, siege.Deadly(str(model_folder), fatal=(fatal,)), 2).run_on_ray(address)
    assert run.settled == run.expected
    died = "the process died 3 times while it was asked this item alone; it is not asked again in this run"
    failed = {row.item: row.error for row in run.store.rows("chair") if row.error is not None}
    assert failed == {"2": died, "3": f"{gone}: does not exist; give the path of a picture file"}
    return {row[1:4] for row in rows(folder / "run") if row[3]}


def captions(undisturbed, *left_out):
    return {row[1:4] for row in undisturbed if row[0] == "chair" and row[1] not in left_out}


@pytest.mark.slow
def test_actors_that_die_are_replaced_and_what_kills_them_is_given_up(
    undisturbed, scenes, model, model_folder, actors, tmp_path
):
    """The picture is asked with the others of its batch, and then alone; each time it kills an actor."""
    said = answer_what_kills_and_what_is_gone(tmp_path, model, scenes, model_folder, 0, "auto")
    assert said == captions(undisturbed, "2", "3")
    assert actors.started >= 2 + 3


@pytest.mark.slow
def test_actors_say_why_they_cannot_go_on(scenes, model, model_folder, other_folder, actors, tmp_path):
    run = begun(scenes, model, tmp_path / "run")
    with pytest.raises(RunError, match=r"^the run was started with model"):
        Job(run, Model(str(other_folder)), 1).run_on_ray("auto")
    fatal = tuple(file.read_bytes() for file in scenes.glob("*.png"))
    with pytest.raises(RunError, match=r"^workers died too often; the last error was: the actor died$"):
        Job(run, siege.Deadly(str(model_folder), fatal=fatal), 1).run_on_ray("auto")
    assert actors.started == 1 + workers_module.STARTS


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_node_gives_the_same_rows(undisturbed, scenes, model, model_folder, tmp_path):
    run = begun(scenes, model, tmp_path / "run", questions=False)
    with cluster(1) as address:
        Job(run, Model(str(model_folder)), 1).run_on_ray(address)
    assert {row[1:4] for row in rows(tmp_path / "run")} == captions(undisturbed)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_cluster_of_two_nodes_goes_on_after_a_death_and_says_why_it_cannot(
    undisturbed, scenes, model, model_folder, other_folder, tmp_path
):
    with cluster(2) as address:
        said = answer_what_kills_and_what_is_gone(tmp_path, model, scenes, model_folder, 2, address)
        assert said == captions(undisturbed, "2", "3")
        run = begun(scenes, model, tmp_path / "other")
        with pytest.raises(RunError, match=r"^the run was started with model"):
            Job(run, Model(str(other_folder)), 1).run_on_ray(address)


def test_ray_that_is_not_there_is_one_line(scenes, model, model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"install mmhall\[ray\]"):
        Job(begun(scenes, model, tmp_path / "run"), Model(str(model_folder)), 1).run_on_ray("auto")


@pytest.mark.slow
def test_a_folder_that_is_deleted_ends_workers(scenes, model, model_folder, tmp_path):
    run = begun(scenes, model, tmp_path / "run")
    with deleted(tmp_path / "run"), pytest.raises(RunError, match=GONE):
        Job(run, Model(str(model_folder)), 1).here()
    assert not (tmp_path / "run" / "run.sqlite").exists()
    assert not [n for n in children_of(os.getpid()) if b"benchmarks.workers" in Path(f"/proc/{n}/cmdline").read_bytes()]


GONE = r"run\.sqlite: was deleted or moved while the run was open"


@contextmanager
def deleted(folder):
    """Meanwhile delete a run folder, as soon as a worker has been started."""

    def wait():
        while not (folder / "worker-0.log").exists():
            time.sleep(0.01)
        shutil.rmtree(folder)

    hand = threading.Thread(target=wait)
    hand.start()
    yield
    hand.join()


@pytest.mark.slow
def test_an_address_at_which_somebody_says_nothing_is_one_line(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster_module, "PATIENCE", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        began = time.monotonic()
        with (
            pytest.raises(RunError, match=rf"^127\.0\.0\.1:{port}: no Ray cluster can be reached there: .*; start one"),
            cluster_module.connect(f"127.0.0.1:{port}"),
        ):
            pass
        assert time.monotonic() - began < 60


def test_a_worker_may_say_more_than_a_pipe_holds(tmp_path):
    worker = _Worker(
        [sys.executable, "-c", "import sys; sys.exit('x' * 200_000 + '\\nthe end')"], dict(os.environ), tmp_path / "log"
    )
    worker.start()
    assert worker.process.wait(60) == 1
    assert worker.last_message() == "the end"


@pytest.mark.slow
@pytest.mark.usefixtures("started")
def test_workers_end_with_a_parent_that_is_killed(scenes, model, model_folder, tmp_path):
    siege.begin(model, tmp_path / "run", scenes)
    parent = forked(lambda: Job(reopen(tmp_path / "run"), Model(str(model_folder)), 1).here() or 0)
    while not (workers := children_of(parent)):
        time.sleep(0.01)
        assert not os.waitpid(parent, os.WNOHANG)[0]
    os.kill(parent, signal.SIGKILL)
    assert ended(parent) == -signal.SIGKILL
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert Glimpsed(tmp_path / "run").settled < reopen(tmp_path / "run").expected


def children_of(number):
    found = []
    for told in Path(f"/proc/{number}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found += map(int, told.read_text().split())
    return found
