"""`mmhall run`: a run from a file, and `mmhall bench --add`, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

FILE = "benchmarks: chair(max_new_tokens=2)\nscenes: 1\nmodel: {}\n"


@pytest.fixture
def written(tmp_path, model_folder):
    (tmp_path / "mine.yaml").write_text(FILE.format(model_folder))


@pytest.mark.slow
@pytest.mark.usefixtures("written")
def test_a_file_makes_a_run_which_goes_on_and_gains_strategies(cli):
    first = cli("run", "mine.yaml")
    assert first.returncode == 0, first.stderr
    assert cli("run", "runs/mine/config.yaml").stdout == first.stdout == cli("report", "runs/mine").stdout
    added = cli("bench", "--add", "vdd", "--out", "runs/mine")
    assert added.returncode == 0, added.stderr
    assert cli("run", "runs/mine/config.yaml", "--out", "again").stdout == added.stdout != first.stdout
    assert Path("again/config.yaml").read_text() == Path("runs/mine/config.yaml").read_text()


@pytest.mark.usefixtures("written")
def test_a_budget_is_no_part_of_what_a_run_is_about(cli, refused):
    first = cli("run", "mine.yaml", "--max-tokens", "9")
    assert first.returncode == 0, first.stderr
    assert "max_tokens: 9" in Path("runs/mine/config.yaml").read_text()
    assert cli("run", "runs/mine/config.yaml", "--memory", "1G").stdout == first.stdout
    assert cli("run", "mine.yaml", "--out", "plain").stdout == first.stdout
    assert 'memory must be a number of bytes >= 1, such as "500M"' in refused("run", "mine.yaml", "--memory", "much")
    added = cli("bench", "--add", "vdd", "--out", "plain", "--max-tokens", "1000")
    assert added.returncode == 0, added.stderr


@pytest.mark.usefixtures("written")
def test_what_cannot_be_is_one_line_and_writes_nothing(refused):
    Path("bad.yaml").write_text("benchmark: pope\n")
    assert "bad.yaml: unknown word 'benchmark'; did you mean 'benchmarks'?" in refused("run", "bad.yaml")
    assert "gone.yaml: does not exist" in refused("run", "gone.yaml")
    assert "workers must be an integer >= 1, got 0" in refused("run", "mine.yaml", "--workers", "0")
    assert "gone.json: does not exist; chair reads" in refused("bench", "chair", "--data", "gone.json", "--out", "run")
    assert "holds no run" in refused("bench", "--add", "vdd", "--out", "gone")
    assert "out must be a run folder" in refused("bench", "--add", "vdd")
    assert "benchmarks must be at least one" in refused("bench", "--out", "run")
    assert sorted(path.name for path in Path().iterdir()) == ["bad.yaml", "mine.yaml"]


@pytest.mark.slow
def test_runs_that_differ_in_their_seed_go_on_where_their_file_is(cli, model_folder):
    text = "benchmarks: pope(sample=True)\nscenes: 1\nseeds: [0, 1]\nmodel: {}\n"
    Path("mine.yaml").write_text(text.format(model_folder))
    first = cli("run", "mine.yaml", "--out", "first")
    assert first.returncode == 0, first.stderr
    assert cli("run", "first/config.yaml").stdout == first.stdout
    assert not Path("runs").exists()
