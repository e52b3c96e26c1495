"""A run by flags, by a file, by Python and by adding strategies in any order: the same rows, table and file."""

from __future__ import annotations

import json
import shutil
import signal
import time
from functools import cache

import pytest

import mmhall
from mmhall.benchmarks.run import runs
from mmhall.benchmarks.run.adding import add_strategies
from mmhall.benchmarks.run.runs import reopen
from mmhall.cli import main
from mmhall.errors import DataError, MmhallError, OptionError, RunError
from mmhall.results.leases import SILENCE
from tests.forks import interrupted

BENCHMARKS = ("pope(max_new_tokens=2)", "chair(max_new_tokens=12)")
ASKED = {"scenes": 2, "twins": 1, "batch_size": 4}
FLAGS = ("--scenes", "2", "--twins", "1", "--batch-size", "4", "--device", "cpu")  # as `embedded` is loaded


@pytest.fixture
def typed(monkeypatch, capsys):
    """Type a command in the current folder; return what it prints."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["mmhall", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        done = capsys.readouterr()
        assert ended.value.code == 0, done.err
        return done.out

    return run


@pytest.fixture(scope="module")
def whole(embedded, tmp_path_factory):
    """A run that nothing was added to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    mmhall.bench(embedded, BENCHMARKS, ["greedy", "pai", "vdd"], out=folder, progress=False, **ASKED)
    return folder


@pytest.fixture
def small(embedded, small_made, tmp_path):
    """A copy of a run of greedy decoding and vdd, to add to."""
    shutil.copytree(small_made, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def small_made(embedded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "run"
    mmhall.bench(embedded, BENCHMARKS, ["greedy", "vdd"], out=folder, progress=False, **ASKED)
    return folder


def rows(folder):
    """All that is stored of the answers but their seconds, in one order."""
    run = reopen(folder)
    found = [row for part in run.parts for row in run.store.rows(part.benchmark.name)]
    return sorted(
        json.dumps([r.benchmark, r.item, r.strategy, r.text, r.stopped_by, r.new_tokens, r.batch, r.extra, r.error])
        for r in found
    )


@cache
def told(folder):
    results = mmhall.open_run(folder)
    return results.table(), results.to_records()


def same(folder, other):
    assert rows(folder) == rows(other)
    assert told(folder) == told(other)
    assert (folder / "config.yaml").read_text() == (other / "config.yaml").read_text()
    assert reopen(folder).store.setup() == reopen(other).store.setup()


@pytest.mark.long
@pytest.mark.slow
def test_flags_file_python_and_added_strategies_give_the_same(whole, embedded, tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    both = ("--strategy", "greedy", "--strategy", "vdd", "--strategy", "pai")
    printed = [typed("bench", *BENCHMARKS, *both, *FLAGS, "--out", "flags")]
    same(whole, tmp_path / "flags")
    printed.append(typed("run", "flags/config.yaml", "--out", "file"))
    same(whole, tmp_path / "file")

    plain = mmhall.bench(embedded, BENCHMARKS, "greedy", out=tmp_path / "python", progress=False, **ASKED)
    assert plain.runs[0].strategies == ("greedy",)
    shutil.copytree(tmp_path / "python", tmp_path / "added")
    mmhall.bench(embedded, BENCHMARKS, ["greedy", "vdd"], out=tmp_path / "python", progress=False, **ASKED)
    asked, ask = [], embedded.generate_batch
    with monkeypatch.context() as patched:
        patched.setattr(embedded, "generate_batch", lambda r, s, **o: asked.append(str(s)) or ask(r, s, **o))
        mmhall.bench(embedded, BENCHMARKS, ["greedy", "vdd", "pai"], out=tmp_path / "python", progress=False, **ASKED)
    assert set(asked) == {"pai", "pai(twin=1)"}  # nothing is asked anew
    same(whole, tmp_path / "python")

    for further in (("--add", "pai"), ("--add", "vdd", "--workers", "1")):
        printed.append(typed("bench", *further, "--out", "added"))
    same(whole, tmp_path / "added")
    assert printed[0] == printed[1] == printed[-1]


@pytest.mark.slow
def test_what_is_killed_while_strategies_are_added_goes_on(whole, small, tmp_path, typed):
    adding = ("bench", "--add", "pai", "--out", small)
    code, _ = interrupted(adding, tmp_path, "chair: ", signal.SIGKILL)
    assert code == -signal.SIGKILL
    run = reopen(small)
    assert "pai" in run.strategies
    assert run.answered < run.expected
    assert run.config.words() == reopen(whole).config.words()
    typed(*adding)
    same(whole, small)


@pytest.mark.slow
@pytest.mark.long
def test_seeds_compose_with_files_and_further_strategies(embedded, tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    benchmark, both = "pope(sample=True, max_new_tokens=2)", ["greedy", "vcd"]
    mmhall.bench(embedded, benchmark, both, out="python", scenes=2, seeds=(0, 1), progress=False)
    written = (tmp_path / "python/config.yaml").read_text()
    assert "seeds:\n- 0\n- 1\n" in written
    for seed in ("1", "0"):
        typed("bench", benchmark, "--scenes", "2", "--device", "cpu", "--seeds", seed, "--out", "added")
    printed = typed("bench", "--add", "vcd", "--out", "added")
    assert "2 runs of greedy, vcd" in printed
    assert typed("run", "added/config.yaml", "--out", "file") == printed.replace("added/", "file/")
    for other in ("added", "file"):
        assert (tmp_path / other / "config.yaml").read_text() == written
        for seed in ("seed-0", "seed-1"):
            same(tmp_path / "python" / seed, tmp_path / other / seed)


class TestWhatCannotBeAdded:
    """Refused with the difference named, and nothing is lost."""

    @pytest.fixture(autouse=True)
    def kept(self, small):
        before = rows(small), reopen(small).store.setup(), (small / "config.yaml").read_text()
        yield
        assert (rows(small), reopen(small).store.setup(), (small / "config.yaml").read_text()) == before

    def test_words_that_differ_from_the_runs(self, small):
        for word, value, message in (
            ("scenes", 3, "scenes must be 2 with --add, as the run has it, got 3"),
            ("model", "other", "model must be embedded with --add"),
            ("limit", 1, "limit must be left out with --add"),
            ("benchmarks", ["pope"], "benchmarks must be"),
        ):
            with pytest.raises(OptionError, match=message):
                add_strategies(small, ["pai"], {word: value})
        ((_, config),) = add_strategies(small, ["pai"], {"scenes": 2, "dtype": "float16", "workers": 2})
        assert (config.loading.dtype, config.workers, config.scenes) == ("float16", 2, 2)

    def test_strategies_that_do_not_exist_or_are_there_in_other_words(self, small, embedded):
        with pytest.raises(MmhallError, match="unknown strategy 'pia'"):
            add_strategies(small, ["pia"], {})
        self.refused(small, embedded, "named once; another one is vdd", "vdd(alpha=1.0)")

    def refused(self, small, embedded, message, *further):
        with pytest.raises(MmhallError, match=message):
            mmhall.bench(
                embedded, BENCHMARKS, ["greedy", "vdd", *(further or ("pai",))], out=small, progress=False, **ASKED
            )

    def test_another_model(self, small, llava):
        other = mmhall.wrap(llava.model, llava.processor, "embedded")
        self.refused(small, other, "weights was")

    def test_other_versions(self, small, embedded, monkeypatch):
        monkeypatch.setattr(runs, "version", lambda package: "5.0")
        self.refused(small, embedded, 'versions.transformers was "5.*, now "5.0"')

    def test_pictures_that_are_gone_or_others(self, embedded, small):
        pictures = small / "scenes-2-0-0.5"
        (pictures / "000001.png").unlink()
        with pytest.raises(DataError, match=r"000001.png: .*"):
            mmhall.bench(embedded, BENCHMARKS, ["greedy", "vdd", "pai"], out=small, progress=False, **ASKED)
        shutil.copy(pictures / "000002.png", pictures / "000001.png")
        self.refused(small, embedded, "pictures was")

    def test_other_strategies_instead_of_further_ones(self, small, embedded):
        for named in (["greedy", "pai"], ["vdd", "greedy", "pai"]):
            with pytest.raises(RunError, match="strategies was"):
                mmhall.bench(embedded, BENCHMARKS, named, out=small, progress=False, **ASKED)

    def test_while_another_process_answers(self, small, embedded):
        store = reopen(small).store
        held = "update leases set finished = ?, worker = ?, renewed = ? where batch = 0 and benchmark = 'pope'"
        with store.writing() as connection:
            connection.execute(held, (0, "elsewhere/1/1", time.time() - SILENCE + 60))
        self.refused(small, embedded, "another process answers this run; add strategies when it is done")
        with store.writing() as connection:
            connection.execute(held, (1, None, None))

    def test_a_run_of_an_older_version_which_goes_on(self, small, embedded, tmp_path):
        """It stores no configuration, and has its strategies as they were named."""
        with pytest.raises(RunError, match="holds no run"):
            add_strategies(tmp_path / "none", ["pai"], {})
        with reopen(small).store.writing() as connection:
            connection.execute("delete from notes where key = 'config'")
            named = json.dumps(["greedy", "vdd(twin=1)", "vdd"])
            connection.execute("update setup set value = ? where key = 'strategies'", (named,))
        with pytest.raises(RunError, match=r"stores no configuration.*with --strategy pai in addition"):
            add_strategies(small, ["pai"], {})
        mmhall.bench(embedded, BENCHMARKS, ["greedy", "vdd"], out=small, progress=False, **ASKED)
        ((_, config),) = add_strategies(small, ["pai"], {})
        assert list(map(str, config.strategies)) == ["greedy", "vdd", "pai"]
