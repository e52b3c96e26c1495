"""Run folders that are damaged, full, locked away or somebody else's: an error names the file, old results stay."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from mmhall.errors import RunError
from mmhall.results.judgements import Judgement, Judgements
from mmhall.results.store import FILE, Row, Store

SETUP = {"model": "tiny", "seed": 0}
NOBODY = 65534


def row(item, text="Yes"):
    return Row("pope", str(item), "greedy", text, "eos", 2, 0.5, 0)


@pytest.fixture
def run(tmp_path):
    """A run of 200 answers, closed: everything is in one file."""
    store = Store.create(tmp_path / "run", SETUP)
    store.add([row(i, "x" * 200) for i in range(200)])
    store.close()
    return tmp_path / "run"


def refused(folder, message, *, create=True):
    """Neither goes on with the run nor reads it, and leaves every file as it is."""
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for use in (Store.open, lambda f: Store.create(f, SETUP)) if create else (Store.open,):
        with pytest.raises(RunError, match=message) as told:
            use(folder)
        assert str(folder) in str(told.value)
        assert "\n" not in str(told.value)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def in_a_process(program, *arguments):
    """Run a program that may spoil its own process; return its last line."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("size", [100, 4096, 5000, 20000])
def test_a_file_that_was_cut_off_is_refused(run, size):
    content = (run / FILE).read_bytes()
    assert len(content) > 40000
    (run / FILE).write_bytes(content[:size])
    refused(run, r"is damaged|cannot read the run")


@pytest.mark.parametrize("start", [0, 4096, 12288])
def test_a_file_that_was_overwritten_is_refused(run, start):
    content = bytearray((run / FILE).read_bytes())
    content[start : start + 4096] = os.urandom(4096)
    (run / FILE).write_bytes(content)
    refused(run, r"is damaged|cannot read the run")


def test_a_database_of_somebody_else_is_left_alone(tmp_path):
    """Also its journal mode, which is part of the file."""
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("create table setup (key text, value text)")
        other.execute("create table mine (x)")
    other.close()
    refused(tmp_path, "is an SQLite database, but no run of mmhall; choose another folder")


@pytest.mark.parametrize("version", ["99", '"two"'])
def test_a_run_of_another_version_is_not_gone_on_with(run, version):
    with sqlite3.connect(run / FILE) as connection:
        connection.execute("update setup set value = ? where key = 'version'", (version,))
    connection.close()
    refused(run, "was written by another version of mmhall")


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(RunError, match="holds no run"):
        Store.open(tmp_path)
    with pytest.raises(RunError, match=rf"{FILE}: "):
        Store.create(tmp_path, SETUP)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunError, match="cannot make the run folder: File exists"):
        Store.create(tmp_path / "run", SETUP)
    assert (tmp_path / "run").read_text() == "mine"


def test_an_empty_file_holds_no_run_and_can_become_one(tmp_path):
    """A process killed at once leaves one."""
    (tmp_path / FILE).touch()
    with pytest.raises(RunError, match="is empty; give the --out folder"):
        Store.open(tmp_path)
    Store.create(tmp_path, SETUP).add([row(1)])
    assert len(Store.open(tmp_path).done("pope")) == 1


class TestLeftovers:
    """A killed process leaves what it committed last in the write-ahead log beside the file."""

    @pytest.fixture
    def killed(self, tmp_path):
        store = Store.create(tmp_path / "live", SETUP)
        store.add([row(i) for i in range(20)])
        shutil.copytree(tmp_path / "live", tmp_path / "killed")
        store.close()
        assert (tmp_path / "killed" / f"{FILE}-wal").stat().st_size > 0
        return tmp_path / "killed"

    def test_they_are_read(self, killed):
        assert len(Store.open(killed).done("pope")) == 20

    def test_they_are_read_when_the_run_goes_on(self, killed):
        (killed / f"{FILE}-shm").unlink()
        assert len(Store.create(killed, SETUP).done("pope")) == 20

    def test_a_torn_end_costs_the_last_transaction_only(self, killed):
        store = Store.open(killed)
        store.add([row("late", "y" * 9000)])
        log = (killed / f"{FILE}-wal").read_bytes()
        content = (killed / FILE).read_bytes()
        store.close()
        (killed / FILE).write_bytes(content)
        (killed / f"{FILE}-wal").write_bytes(log[:-500])
        assert len(Store.open(killed).done("pope")) == 20

    def test_a_log_without_its_file_is_not_thrown_away(self, killed):
        """SQLite would delete the log of an empty file, and with it the only answers there are."""
        (killed / FILE).write_bytes(b"")
        refused(killed, "is empty, but run.sqlite-wal beside it is not")

    def test_a_log_of_another_file_does_no_harm(self, run):
        (run / f"{FILE}-wal").write_bytes(os.urandom(9000))
        assert len(Store.open(run).done("pope")) == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
class TestReadOnly:
    AS_NOBODY = f"""
        import os, sys
        from pathlib import Path
        from mmhall.errors import RunError
        from mmhall.results.store import Row, Store
        os.setuid({NOBODY})
        folder = Path(sys.argv[1])
    """

    @pytest.fixture
    def locked(self, run):
        """The run where anybody may look, and only its owner may write."""
        with tempfile.TemporaryDirectory() as base:
            folder = Path(base) / "run"
            shutil.copytree(run, folder)
            for path, mode in ((Path(base), 0o755), (folder, 0o755), (folder / FILE, 0o644)):
                path.chmod(mode)
            yield folder

    def test_a_report_can_be_read(self, locked):
        assert in_a_process(self.AS_NOBODY + "    print(len(Store.open(folder).done('pope')))", locked) == "200"
        assert [path.name for path in locked.iterdir()] == [FILE]

    def test_judgements_can_be_read(self, locked):
        Judgements(locked / FILE).add("a", {}, [Judgement("pope", "1", "greedy", "a", "text", "reply")])
        program = f"""
        print(len(Judgements(folder / {FILE!r}).all("pope")))
        """
        imports = "\n        from mmhall.results.judgements import Judgements"
        assert in_a_process(imports + self.AS_NOBODY + program, locked) == "1"
        assert [path.name for path in locked.iterdir()] == [FILE]

    def test_nothing_can_be_added(self, locked):
        program = f"""
        try:
            Store.create(folder, {SETUP!r})
        except RunError as error:
            print(error)
        """
        assert f"{locked / FILE}: cannot write the run: attempt to write a readonly database" in in_a_process(
            self.AS_NOBODY + program, locked
        )
        assert len(Store.open(locked).done("pope")) == 200

    def test_a_new_run_cannot_begin(self, locked):
        program = f"""
        try:
            Store.create(folder.parent, {SETUP!r})
        except RunError as error:
            print(error)
        """
        assert f"{locked.parent / FILE}: " in in_a_process(self.AS_NOBODY + program, locked)

    def test_a_log_that_cannot_be_read_in_is_no_reason_to_leave_it_out(self, locked):
        (locked / f"{FILE}-wal").write_bytes(b"committed last")
        program = """
        try:
            Store.open(folder)
        except RunError as error:
            print(error)
        """
        assert "needs run.sqlite-wal read into it" in in_a_process(self.AS_NOBODY + program, locked)


class TestFullDisk:
    FILL = """
        import resource, signal, sys
        from pathlib import Path
        from mmhall.errors import RunError
        from mmhall.results.store import Row, Store
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store, limit = Store.create(Path(sys.argv[1]), {"model": "tiny", "seed": 0}), int(sys.argv[2])
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            for i in range(5000):
                store.add([Row("pope", str(i), "greedy", "x" * 500, "eos", 2, 0.5, 0)])
        except RunError as error:
            print(i, error)
    """

    def check(self, folder, last):
        number, message = last.split(" ", 1)
        assert int(number) > 10
        assert message.startswith(f"{folder / FILE}: cannot write the run: ")
        assert message.endswith("what was committed before is intact")
        store = Store.open(folder)
        assert store.done("pope") == {(str(i), "greedy") for i in range(int(number))}
        store.close()

    def test_a_file_that_may_not_grow(self, tmp_path):
        """The system refuses to write on, as it does on a full disk."""
        self.check(tmp_path / "run", in_a_process(self.FILL, tmp_path / "run", 200_000))
        Store.create(tmp_path / "run", SETUP).add([row("more")])

    def test_a_small_disk(self, tmp_path):
        """A file system of 512 kB."""
        (tmp_path / "disk").mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path / "disk")], capture_output=True
        )
        if mounted.returncode:
            pytest.skip("cannot mount a small file system here")
        try:
            folder = tmp_path / "disk" / "run"
            last = in_a_process(self.FILL, folder, 0)
            self.check(folder, last)
        finally:
            subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.slow
def test_processes_may_begin_a_run_at_once(tmp_path):
    """Of two set-ups one wins, for all who ask for it; the other is refused, and nobody else is."""
    program = """
        import os, random, sys, time
        from pathlib import Path
        from mmhall.errors import RunError
        from mmhall.results.store import Store

        def begin(folder, seed):
            try:
                Store.create(folder, {"seed": seed})
                return "begun"
            except RunError as error:
                return "another" if "belongs to another set-up (seed was" in str(error) else str(error)

        for turn in range(15):
            reading, writing = os.pipe()
            at = time.monotonic() + 0.01
            for seed in (0, 1) * 4:
                if os.fork() == 0:
                    time.sleep(max(0.0, at - time.monotonic()) + random.Random(turn * 8 + seed).uniform(0, 0.003))
                    said = f"{seed} {begin(Path(sys.argv[1]) / str(turn), seed)}\\n"
                    os.write(writing, said.encode())
                    os._exit(0)
            for _ in range(8):
                os.wait()
            os.close(writing)
            said = sorted(os.fdopen(reading).read().splitlines())
            assert said in (["0 another"] * 4 + ["1 begun"] * 4, ["0 begun"] * 4 + ["1 another"] * 4), said
        print("fine")
    """
    assert in_a_process(program, tmp_path) == "fine"
