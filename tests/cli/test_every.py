"""Every strategy and its twins by one command; report and comparison of such runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import mmhall
from mmhall import decoders
from mmhall.benchmarks.data.pairs import read_pairs
from mmhall.benchmarks.evidence.threshold import SCORE
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.run.arms import choose_arms, random_twins
from mmhall.benchmarks.run.runs import reopen
from mmhall.cli import fit
from mmhall.decoders import STRATEGIES
from mmhall.strategies import artifacts, strategy
from tests.test_registry import install

BENCH = ("bench", "pope(max_new_tokens=2)", "chair(max_new_tokens=12)", "--scenes", "6", "--batch-size", "64")
TWINS = ("vdd(twin=1)", "vdd(twin=2)")


@pytest.fixture(autouse=True)
def few(tmp_path_factory, monkeypatch):
    """Four strategies of mmhall, of which one needs a CLIP, and a learned one of a package."""
    folder = tmp_path_factory.mktemp("packages")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(STRATEGIES, "_unusable", {})
    monkeypatch.setattr(
        decoders, "BUILT_IN", {name: decoders.BUILT_IN[name] for name in ("greedy", "vdd", "yes-shift", "cgd")}
    )
    lines = [{"picture": "p.png", "faithful": f"A dog, and {n}.", "hallucinated": f"A cat, and {n}."} for n in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Image.new("RGB", (56, 56), (40, 90, 200)).save(folder / "p.png")
    pairs, draw = read_pairs(folder / "pairs.jsonl", folder), fit.draw_samples
    monkeypatch.setattr(fit, "draw_samples", lambda kind, to: pairs if kind == "pairs" else draw(kind, to))
    monkeypatch.setattr(fit, "SAMPLES", 12)
    install(folder, "lean", "from tests.lean import Lean as Own\n")
    yield
    sys.modules.pop("plugin_lean", None)


def test_twins_are_found_by_their_option():
    assert list(map(str, random_twins(strategy("vdd(alpha=0.5)"), (1, 2)))) == [
        "vdd(alpha=0.5, twin=1)",
        "vdd(alpha=0.5, twin=2)",
    ]
    assert list(map(str, random_twins(strategy("vdd+lean"), (3,)))) == ["vdd(twin=3)+lean"]
    for spec in ("greedy", "vdd(twin=1)", "lean"):
        assert not random_twins(strategy(spec), (1,)), spec


def test_a_twin_that_is_named_runs_once():
    named = [strategy(spec) for spec in ("greedy", "vdd", "vdd(twin=1)")]
    arms = choose_arms(named, mmhall.load().adapter, every=False, twins=2)
    assert list(map(str, arms.strategies)) == ["greedy", "vdd", "vdd(twin=1)", "vdd(twin=2)"]


def test_where_answers_are_drawn_searches_are_left_out(monkeypatch):
    monkeypatch.setitem(decoders.BUILT_IN, "beam", "mmhall.decoders.beam:Beam")
    settings = [Pope(sample=drawn).settings for drawn in (False, True)]
    chosen, drawn = (
        choose_arms([strategy("greedy")], mmhall.load().adapter, every=True, twins=0, settings=each)
        for each in (settings[:1], settings)
    )
    assert {str(method) for method in chosen.strategies} - {str(method) for method in drawn.strategies} == {"beam"}
    assert drawn.left_out["beam"] == "generation: do_sample must be False with a search of 5 beams, got True"


def test_a_strategys_own_control_runs_beside_it(monkeypatch):
    monkeypatch.setitem(decoders.BUILT_IN, "flb", "mmhall.decoders.flb:FLB")
    for named, wanted in (("greedy", ["flb", "flb(part='top')"]), ("flb(part='top')", ["flb(part='top')", "flb"])):
        arms = choose_arms([strategy(named)], mmhall.load().adapter, every=True, twins=1).strategies
        assert [str(one) for one in arms if one.name == "flb"] == wanted


def test_twins_must_not_be_negative(refused):
    assert "twins must be an integer >= 0, got -1" in refused(*BENCH, "--twins", "-1", "--out", "run")


@pytest.mark.slow
def test_every_strategy_and_its_twins_by_one_command(cli, monkeypatch, tmp_path):
    asked = (*BENCH, "--all", "--twins", "2", "--out", "run")
    first = cli(*asked, "--json")
    assert first.returncode == 0, first.stderr
    run, told = reopen(Path("run")), json.loads(first.stdout)
    assert run.strategies == ("greedy", "vdd", "yes-shift", "lean", *TWINS)
    assert run.arms == ("greedy", "vdd", "yes-shift", "lean")
    assert list(run.left_out) == ["cgd"]
    assert run.answered == run.expected
    assert run.store.setup()["artifacts"]["lean"]["sha256"] == artifacts.read("run/artifacts/lean.json").sha256
    assert not (artifacts.default_folder("embedded") / "lean.json").exists()

    rows = [row for row in told["evidence"] if row["strategy"] == "vdd"]
    assert [row["group"] for row in rows] == ["random", "popular", "adversarial", "captions"]
    assert all(len(row["twins"]) == 2 and row["over_twins"] for row in rows)
    assert all(row["ranking"] for row in rows[:3])
    assert [[control["name"] for control in row["controls"]] for row in rows] == [
        *[["yes-shift", "equal yes share", "best threshold"]] * 3,
        ["frontier of shorter captions"],
    ]
    part = run.parts[0]
    plain = [row for row in run.rows(part) if row.strategy == "greedy"][:3]
    items, lvlm = {item.id: item for item in part.items}, mmhall.load()
    for row in plain:
        yes, no = lvlm.choose(*part.request(items[row.item])).scores
        assert row.extra[SCORE] == pytest.approx(yes - no, abs=1e-3)

    monkeypatch.setattr(fit, "draw_samples", None)  # the second call fits nothing
    assert cli(*asked, "--json").stdout == first.stdout

    page = cli("report", "run", "--full", "--html", "page.html")
    assert "Not run: cgd: clip must be" in page.stdout
    assert page.stdout.count(", evidence; the baseline is greedy") == 4
    html = Path("page.html").read_text()
    assert "vdd(twin=1)" not in html
    assert "&gt; twins" in html

    compared = cli("compare", "run", "run").stdout
    assert compared.count("evidence; the baseline is vdd (first)") == 4
    assert "vdd(twin=1)" not in compared
    assert compared.count("· twins ") == 4
