"""Runs that are killed, shared and spread give the rows of an undisturbed one: none lost, none double."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

import mmhall
from mmhall.benchmarks.run import cluster as cluster_module
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import reopen
from mmhall.benchmarks.run.workers import Job, Model, _Worker
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import RunError
from mmhall.models._options import LoadOptions
from mmhall.results.leases import Leases, holds_lease, process_name
from mmhall.results.store import Row, Store
from tests.benchmarks import siege
from tests.conftest import make_random_llava
from tests.forks import ended, forked

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model_folder(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_random_llava(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


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


@pytest.fixture(scope="module")
def cluster():
    """Address of a Ray cluster of two nodes, with room for a worker on each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        started.add_node(num_cpus=1)
        yield started.address
    finally:
        ray.shutdown()
        started.shutdown()


def rows(folder):
    read = "select benchmark, item, strategy, text, stopped_by, new_tokens, batch from answers order by 1, 2, 3"
    with closing(Store.open(folder)) as store:
        return store.read(read)


@pytest.mark.slow
def test_kills_lose_nothing_and_double_nothing(undisturbed, scenes, model, tmp_path):
    """Workers are killed six times, at random moments; as often as the environment's MMHALL_KILLS says."""
    runs = siege.kills(model, tmp_path, scenes, int(os.environ.get("MMHALL_KILLS", "6")))
    for number in range(runs):
        assert rows(tmp_path / f"run-{number}") == undisturbed


@pytest.mark.slow
def test_several_processes_share_a_run(undisturbed, scenes, model, tmp_path):
    siege.together(model, tmp_path / "run", scenes, 3)
    assert rows(tmp_path / "run") == undisturbed


def begun(scenes, lvlm, folder, *, questions=True):
    siege.begin(lvlm, folder, scenes, questions=questions)
    return reopen(folder)


@pytest.mark.slow
def test_workers_load_as_they_are_told_may_talk_a_lot_and_are_replaced(scenes, model_folder, tmp_path, monkeypatch):
    """Libraries may write megabytes to stderr; it lands in a log in the run folder. The first worker is killed."""
    noise = tmp_path / "noise"
    noise.mkdir()
    (noise / "sitecustomize.py").write_text("import sys\nsys.stderr.write('warning\\n' * 200_000)\n")
    monkeypatch.setenv("PYTHONPATH", f"{noise}:{ROOT}")
    half = mmhall.load(model_folder, dtype="float16")
    wanted = answered(half, scenes, tmp_path / "whole")
    run, told = begun(scenes, half, tmp_path / "run"), []
    with one_killed(tmp_path / "run", "mmhall.benchmarks.run.workers"):
        Job(run, Model(str(model_folder), None, LoadOptions(dtype="float16")), 1).here(told.append)
    assert rows(tmp_path / "run") == wanted
    assert sum(told) == len(wanted)
    assert (tmp_path / "run" / "worker-0.log").stat().st_size > 1_000_000


@pytest.fixture(scope="module")
def other_folder(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    make_random_llava(processor, seed=1).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_worker_with_another_model_says_so(scenes, model, model_folder, other_folder, tmp_path):
    run = begun(scenes, model, tmp_path / "run")
    with pytest.raises(RunError, match="was started with dtype 'float32', a worker has 'float16'"):
        Model(str(model_folder), None, LoadOptions(dtype="float16")).load(run.store.setup())
    with pytest.raises(RunError, match=r"^the run was started with model"):
        Job(run, Model(str(other_folder)), 1).here()


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_ray_cluster_of_two_nodes_gives_the_same_rows(undisturbed, scenes, model, model_folder, cluster, tmp_path):
    """Also after a worker has died of a picture, its third strike: it is given up. One that is gone is told."""
    for file in scenes.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    run = begun(tmp_path, model, tmp_path / "run", questions=False)
    gone, fatal = tmp_path / "000003.png", (tmp_path / "000002.png").read_bytes()
    gone.unlink()
    leases = Leases(run.store, "chair", 2)
    for _ in range(2):
        leases.strike(0, ["2"])
    Job(run, siege.Deadly(str(model_folder), fatal=(fatal,)), 2).run_on_ray(cluster)
    assert run.settled == run.expected
    died = "the process died 3 times while it was asked this item alone; it is not asked again in this run"
    failed = {row.item: row.error for row in run.store.rows("chair") if row.error is not None}
    assert failed == {"2": died, "3": f"{gone}: does not exist; give the path of a picture file"}
    whole = {row[1:4] for row in undisturbed if row[0] == "chair" and row[1] not in failed}
    assert {row[1:4] for row in rows(tmp_path / "run") if row[3]} == whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_workers_say_why_they_cannot_go_on(scenes, model, other_folder, cluster, tmp_path):
    run = begun(scenes, model, tmp_path / "run")
    with pytest.raises(RunError, match=r"^the run was started with model"):
        Job(run, Model(str(other_folder)), 1).run_on_ray(cluster)


@contextmanager
def one_killed(folder, called):
    """Meanwhile kill one of our processes that is called so, as soon as the run has answers."""
    over, killed = threading.Event(), []

    def hunt():
        with closing(Store.open(folder)) as store:
            while not killed and not over.wait(0.01):
                if store.read("select count(*) from answers")[0][0]:
                    killed.extend(first_killed(called))

    assassin = threading.Thread(target=hunt)
    assassin.start()
    try:
        yield
    finally:
        over.set()
        assassin.join()
    assert killed, "all was answered before anybody was killed"


def first_killed(called):
    for number in below(os.getpid()):
        with suppress(OSError):  # it has ended by itself
            if called in Path(f"/proc/{number}/cmdline").read_text(errors="replace"):
                os.kill(number, signal.SIGKILL)
                return [number]
    return []


def below(number):
    """Yield the processes that a process has started, those that they have started, and so on."""
    for child in children_of(number):
        yield child
        yield from below(child)


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


class TestLeases:
    def test_a_batch_is_leased_once(self, tmp_path):
        one, two = (Leases(Store.create(tmp_path, {}), "pope", 3) for _ in range(2))
        two.worker = "elsewhere/1/1"
        assert [one.claim(), two.claim(), one.claim(), two.claim()] == [0, 1, 2, None]
        one.finish(0)
        assert not one.is_finished()
        one.drop(2)
        assert two.claim() == 2
        two.finish(1)
        two.finish(2)
        assert one.is_finished()

    def test_a_dead_process_of_this_machine_loses_its_lease_at_once(self, tmp_path):
        first = Leases(Store.create(tmp_path, {}), "pope", 1)
        with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
            gone = f"{process_name().rsplit('/', 2)[0]}/{process.pid}/1"
        first.worker = gone
        assert first.claim() == 0
        assert Leases(Store.create(tmp_path, {}), "pope", 1).claim() == 0

    def test_a_strike_is_of_the_items_that_were_asked_and_puts_their_batch_last(self, tmp_path):
        leases = Leases(Store.create(tmp_path, {}), "pope", 2)
        assert leases.claim() == 0
        leases.strike(0, ["a", "b"])
        leases.drop(0)
        assert (leases.claim(), leases.claim()) == (1, 0)
        assert leases.pieces(0, ["a", "b", "c"]) == [["c"], ["a", "b"]]
        for _ in range(3):
            leases.strike(0, ["a"])
        assert leases.pieces(0, ["a", "b", "c"]) == [["c"], ["b"]]

    def test_a_number_that_came_again_is_another_process(self):
        host, number, started = process_name().rsplit("/", 2)
        assert holds_lease(process_name(), 0.0)
        assert not holds_lease(f"{host}/{number}/{int(started) - 1}", time.time())

    def test_a_failed_batch_is_done_again_when_nobody_is_at_work(self, tmp_path):
        """One process finishes a batch in which an item failed; another one joins it, and neither waits for itself."""
        one = Leases(Store.create(tmp_path, {}), "pope", 2)
        one.worker = "elsewhere/2/2"
        assert one.claim() == 0
        Store.create(tmp_path, {}).add([Row("pope", "1", "greedy", "", "", 0, 0.0, 0, error="torn")])
        one.finish(0)
        assert one.claim() == 1
        other = Leases(Store.create(tmp_path, {}), "pope", 2)
        other.worker = "elsewhere/1/1"
        assert other.claim() is None  # 0 is done, 1 is held
        one.finish(1)
        assert one.is_finished()
        again = Leases(Store.create(tmp_path, {}), "pope", 2)
        assert not again.is_finished()
        assert (again.claim(), again.claim()) == (0, None)

    def test_another_machine_is_believed_for_a_while(self):
        assert holds_lease("elsewhere/1/1", time.time())
        assert not holds_lease("elsewhere/1/1", time.time() - 3600)


def test_a_worker_may_say_more_than_a_pipe_holds(tmp_path):
    worker = _Worker(
        [sys.executable, "-c", "import sys; sys.exit('x' * 200_000 + '\\nthe end')"], dict(os.environ), tmp_path / "log"
    )
    worker.start()
    assert worker.process.wait(60) == 1
    assert worker.last_message() == "the end"


@pytest.mark.slow
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


def children_of(number):
    found = []
    for told in Path(f"/proc/{number}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found += map(int, told.read_text().split())
    return found


def test_a_batch_is_free_while_others_are_held(tmp_path):
    """Of two batches one is held, then both."""
    one, two = (Leases(Store.create(tmp_path, {}), "pope", 2) for _ in range(2))
    two.worker = "elsewhere/1/1"
    assert one.claim() == 0
    assert one.has_free_batch()
    assert two.has_free_batch()
    assert two.claim() == 1
    assert not one.has_free_batch()
    assert not two.has_free_batch()
