"""Rows 26 to 34: runs that are killed, shared, full, damaged or offline."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import tempfile
import time
from contextlib import closing, suppress
from functools import cache, partial
from pathlib import Path

import pytest

import mmhall
from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.data.hub import fetch
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import reopen, start
from mmhall.benchmarks.scenes import write_scenes
from mmhall.benchmarks.tune.log import TuningLog
from mmhall.errors import DataError, ModelError, RunError
from mmhall.results.imports import read_answers
from mmhall.results.leases import holds_lease
from mmhall.results.store import FILE, Store
from tests.benchmarks import siege
from tests.benchmarks.data.test_pope_files import lines, question, write_set
from tests.benchmarks.run.test_workers import rows
from tests.faults.support import command, embedded, refuses, told_by
from tests.forks import ended, interrupted
from tests.results.test_damage import TestFullDisk, in_a_process


@cache
def scenes():
    folder = Path(tempfile.mkdtemp(prefix="mmhall-scenes-"))
    list(write_scenes(folder, 4, 0))
    return folder


def begun(folder):
    """A run of four captions by two strategies."""
    siege.begin(embedded(), folder, scenes(), questions=False)
    return folder


def answered(folder):
    with closing(Store.open(folder)) as store:
        return store.read("select count(*) from answers")[0][0]


@cache
def undisturbed():
    """The rows of a run that nothing has happened to."""
    folder = begun(Path(tempfile.mkdtemp(prefix="mmhall-run-")))
    assert ended(siege.child(embedded(), folder)) == 0
    found = rows(folder)
    shutil.rmtree(folder)
    return found


def killed(folder):
    """A worker is killed after each commit, wherever that finds it, and another one goes on."""
    begun(folder / "run")
    kills, code = 0, -signal.SIGKILL
    while code != 0:
        before, pid = answered(folder / "run"), siege.child(embedded(), folder / "run")
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if answered(folder / "run") > before:
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        code = ended(pid)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
    assert kills
    assert rows(folder / "run") == undisturbed()


def two_writers(folder):
    begun(folder / "run")
    codes = [ended(pid) for pid in [siege.child(embedded(), folder / "run") for _ in range(2)]]
    assert codes == [0, 0]
    assert rows(folder / "run") == undisturbed()
    refuses(RunError, "belongs to another set-up", siege.begin, embedded(), folder / "run", scenes())


def no_room(folder):
    TestFullDisk().check(folder / "run", in_a_process(TestFullDisk.FILL, folder / "run", 200_000))
    (folder / "file").touch()
    assert "file is no folder" in told_by("bench", "chair", "--out", folder / "file" / "run")
    with Path("/dev/full").open("w", buffering=1) as full:
        code, _, said = command("show", "vcd", out=full)
        with suppress(OSError):
            full.close()
    assert (code, said) == (2, "mmhall: No space left on device; free some room, or give another path\n")
    assert holds_lease("elsewhere/1/1", time.time() + 3600)  # the clock went back: nobody's lease is lost


def torn(folder):
    (folder / FILE).write_bytes(b"no database" * 100)
    refuses(RunError, FILE, Store.open, folder)
    Store.create(folder / "newer", {}).close()
    with closing(sqlite3.connect(folder / "newer" / FILE)) as connection, connection:
        connection.execute("update setup set value = '99' where key = 'version'")
    refuses(RunError, "was written by another version of mmhall", Store.open, folder / "newer")
    file = folder / "answers.jsonl"
    for content, told in ((b'{"id": 1, "text": "a"}\n{"id": 2, "te', "line 2"), (b'{"id": "\xff"}', "not UTF-8")):
        file.write_bytes(content)
        refuses(DataError, told, read_answers, file)
    log = folder / "tuned.json.part"
    for content in (b'{}\n["a", [], []]\n["b", [', b'{}\n["a", [], []]\n'):
        log.write_bytes(content)
        assert TuningLog(log, {}).get_or_ask("a", lambda: pytest.fail("asked again"))[1]
    for content in (b'{}\n["a", [\n["b", [], []]\n', b"\xff\n"):
        log.write_bytes(content)
        refuses(DataError, "tuned.json.part: is damaged .* delete it", TuningLog, log, {})


def other_setup(folder):
    first = {"model": "a", "strategies": ["greedy"], "benchmarks": {"pope": {"items": "1f"}}}
    Store.create(folder, first).close()
    for changed, told in (
        ({"model": "b"}, 'model was "a", now "b"'),
        ({"strategies": ["vcd"]}, r'strategies was \["greedy"\], now \["vcd"\]'),
        ({"benchmarks": {"pope": {"items": "2e"}}}, 'benchmarks.pope.items was "1f", now "2e"'),
    ):
        refuses(RunError, told, Store.create, folder, {**first, **changed})


def deaths(folder):
    """Whoever is asked about the third picture dies of it; the others' answers are those of an undisturbed run."""
    begun(folder / "run")
    lvlm, codes = embedded(), []
    siege.deadly(lvlm, (scenes() / "000003.png").read_bytes())
    try:
        while not codes or codes[-1] != 0:
            codes.append(ended(siege.child(lvlm, folder / "run")))
    finally:
        del lvlm.generate_batch
    assert codes == [-signal.SIGKILL] * 4 + [0]  # with the whole batch, and three times with the item alone
    with closing(reopen(folder / "run").store) as store:
        failed = [row for row in store.rows("chair") if row.error is not None]
    assert {row.item for row in failed} == {"3"}
    assert "died 3 times while it was asked this item alone" in failed[0].error
    assert [row for row in rows(folder / "run") if row[1] != "3"] == [row for row in undisturbed() if row[1] != "3"]
    assert not holds_lease("elsewhere/1/1", time.time() - 3600)  # a lease that nobody renews expires


def terminated(folder):
    asked = ("bench", "chair(max_new_tokens=8)", "--scenes", "8", "--batch-size", "1", "--out", "run")
    code, said = interrupted(asked, folder, "chair: ", signal.SIGTERM)
    assert code == 143, said
    assert "answers are kept in run, the same command goes on from there" in said
    run = reopen(folder / "run")
    with closing(run.store):
        assert 0 < run.answered < run.expected
        (part,) = run.parts
        answer(embedded(), run, part, [mmhall.strategy("greedy")], batch_size=1)
        assert run.answered == run.expected


def unfit_rows(folder):
    pope = benchmark("pope")
    write_set(folder)
    file = folder / "coco_pope_random.json"
    asked = [question(1, "a.jpg", "dog", "yes"), question(2, "a.jpg", "cup", "no")]
    for changed, told in (
        ([*asked, question(3, "gone.jpg", "dog", "yes")], "gone.jpg"),
        ([*asked, {**question(3, "b.jpg", "ox", "no"), "label": "maybe"}], "line 3.*'maybe'"),
        ([*asked, question(2, "b.jpg", "ox", "no")], "line 3: question_id 2 is there twice"),
    ):
        file.write_text(lines(changed))
        refuses(DataError, told, pope.material, Source(file))
    file.write_text(lines(asked))
    greedy = mmhall.strategy("greedy")
    begin = partial(start, benchmarks=[(pope, Source(file))], strategies=[greedy], batch_size=2)
    with closing((run := begin(folder / "run", embedded())).store):
        answer(embedded(), run, run.parts[0], [greedy])
    shutil.copy(scenes() / "000001.png", folder / "a.jpg")
    refuses(RunError, "pope.pictures was .* such as 'a.jpg'", begin, folder / "run", embedded())


def offline(folder):
    refuses(ModelError, "HF_HUB_OFFLINE is set: if files are missing, run once without it", mmhall.load, "a/b")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder))
        refuses(
            DataError, r"the hub may not be used \(HF_HUB_OFFLINE is set\); run once without it", fetch, "hub:", "pope"
        )
    half = folder / "hub" / "models--some--model"
    (half / "refs").mkdir(parents=True)
    (half / "refs" / "main").write_text("c" * 40)
    (half / "snapshots" / ("c" * 40)).mkdir(parents=True)
    config = json.dumps(embedded().model.config.to_dict(), default=str)
    (half / "snapshots" / ("c" * 40) / "config.json").write_text(config)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
        line = told_by("show", "vcd", "--model", "some/model")
    assert line.startswith("mmhall: cannot load model 'some/model': ")
    assert "Can't load image processor" in line
    assert line.endswith("HF_HUB_OFFLINE is set: if files are missing, run once without it")


ROWS = [
    (26, "workers killed at any moment", killed),
    (27, "two writers, and two set-ups, of one run", two_writers),
    (28, "no room to write", no_room),
    (29, "files that are torn or of another kind", torn),
    (30, "a run folder of another set-up", other_setup),
    (31, "an item that kills whoever asks it", deaths),
    (32, "a run that is ended by SIGTERM", terminated),
    (33, "rows of data that are unfit", unfit_rows),
    (34, "models and data that are not at hand offline", offline),
]
