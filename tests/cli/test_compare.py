"""Reports on several runs, read another way, and runs compared."""

from __future__ import annotations

import json
import shutil

import pytest

from mmhall.benchmarks.data.pope_files import write_questions
from mmhall.benchmarks.report import plots
from mmhall.benchmarks.run.runs import reopen
from mmhall.results.store import Row, Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the runs are kept, to be copied for each test."""
    return tmp_path_factory.mktemp("kept") / "runs"


@pytest.fixture
def runs(cli, model_folder, kept, tmp_path):
    if kept.exists():
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
        return
    for out, specs in (("a", ("greedy", "vdd")), ("b", ("greedy", "vdd(alpha=0.5)")), ("c", ("vcd",))):
        strategies = [word for spec in specs for word in ("--strategy", spec)]
        asked = ("bench", "pope(max_new_tokens=2)", "--model", model_folder, "--scenes", "2")
        done = cli(*asked, *strategies, "--out", out)
        assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path, kept)


def test_compare_tells_set_up_and_result(runs, cli):
    told = cli("compare", "a", "b").stdout
    assert "fitted.vdd" in told
    assert "benchmarks.pope" not in told
    assert "greedy: 0 of " in told
    assert "vdd(alpha=0.5) (second)" in told
    assert "items are the same" in told
    assert cli("compare", "a", "a").stdout.startswith("set-up\nthe same\n")


def test_what_differs_is_counted_and_tested(runs, cli, tmp_path):
    """One answer turned from what it was into nonsense."""
    store = Store.open(tmp_path / "b")
    with store._connection as connection:
        connection.execute("update answers set text = 'hm' where strategy = 'greedy' and rowid < 2")
    told = cli("compare", "a", "b").stdout
    assert "pope, greedy: 1 of " in told


def test_runs_without_a_common_strategy_say_so(runs, cli):
    assert "no strategy is in both runs" in cli("compare", "a", "c").stdout


def test_several_runs_are_reported_under_their_names(runs, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "to_svg", lambda figure: "<svg></svg>")
    told = cli("report", "a", "b", "--html", "p.html").stdout
    assert "== a\n" in told
    assert "== b\n" in told
    assert told.count("pope adversarial: no strategy is shown to be better") == 2
    assert (tmp_path / "p.html").read_text().count("<h1>") == 2


def test_answers_are_read_another_way_without_asking(runs, cli, refused):
    told = cli("report", "a", "--read-as", "pope(rule='official')").stdout
    assert "rule official" in told
    assert "has no chair, only pope" in refused("report", "a", "--read-as", "chair")
    assert "answers are stored already; rule can change" in refused("report", "a", "--read-as", "pope(prompt='vcd')")
    told = json.loads(cli("report", "a", "--read-as", "pope(rule='official')", "--json").stdout)
    assert told["setup"]["benchmarks"]["pope"]["rule"] == "official"


def test_answers_are_read_again_with_other_labels(runs, cli, refused, tmp_path):
    """The labels of the run itself change nothing."""
    part = reopen(tmp_path / "a").parts[0]
    write_questions(part.items, tmp_path / "labels", "", 0, part.pictures)
    told = cli("report", "a", "--relabel", "labels", "--full").stdout
    assert told.count("evidence: read again with the labels of labels: ") == 3
    assert told.count("with the labels of labels the order of strategies by accuracy stays (") == 3
    (record,) = json.loads(cli("report", "a", "--relabel", "labels", "--json").stdout)["items"]
    assert all(coverage["dropped"] == 0 for coverage in record["relabelled"]["coverage"].values())
    assert "does not exist" in refused("report", "a", "--relabel", "nowhere_random.json")


def test_a_failure_is_told_and_counts_for_nothing(runs, cli, tmp_path):
    store = Store.open(tmp_path / "a")
    with store._connection as connection:
        (item,) = connection.execute("select item from answers where strategy = 'vdd' limit 1").fetchone()
        connection.execute("delete from answers where strategy = 'vdd' and item = ?", (item,))
    store.add([Row("pope", item, "vdd", "", "", 0, 0.0, 0, error="torn")])
    assert "pope, vdd: 1 items could not be answered" in cli("report", "a").stdout


def test_a_report_needs_neither_data_nor_pictures(runs, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "to_svg", lambda figure: "<svg></svg>")
    before = cli("report", "a").stdout
    for folder in (tmp_path / "a").glob("scenes-*"):
        shutil.rmtree(folder)
    assert cli("report", "a").stdout == before
    assert cli("report", "a", "--html", "p.html").returncode == 0
