"""Answers out of a run and back in, typed as a person types it."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

SCENES = ("--scenes", "3", "--seed", "2", "--batch-size", "8")
SPECS = ("pope(max_new_tokens=2)", "chair(max_new_tokens=4)")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the run is kept, to be copied for each test."""
    return tmp_path_factory.mktemp("kept") / "r"


@pytest.fixture
def run(cli, model_folder, kept, tmp_path):
    """A run of two benchmarks and two strategies; returns the folder's name."""
    if not kept.exists():
        strategies = ("--strategy", "greedy", "--strategy", "vdd")
        done = cli("bench", *SPECS, "--model", model_folder, *strategies, *SCENES, "--out", "r")
        assert done.returncode == 0, done.stderr
        shutil.copytree("r", kept)
    else:
        shutil.copytree(kept, tmp_path / "r")
    return "r"


@pytest.mark.slow
def test_scores_of_an_export_are_those_of_the_run(cli, run, tmp_path):
    """Also without the pictures; what differs is what nobody asked for: cost."""
    assert cli("export", run, "--to", "a.jsonl").returncode == 0
    wanted = json.loads(cli("report", run, "--json").stdout)["metrics"]
    data = f"{run}/scenes-3-2-0.5/annotations.json"
    for picture in (tmp_path / run).glob("scenes*/*.png"):
        picture.unlink()
    for benchmark, spec in zip(("pope", "chair"), SPECS, strict=True):
        done = cli("score", spec, "a.jsonl", "--data", data, "--seed", "2", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["metrics"] == [cell for cell in wanted if cell["benchmark"] == benchmark]
        assert told["setup"]["strategies"] == ["greedy", "vdd"]
        assert told["costs"] == []


@pytest.mark.slow
def test_a_table_of_an_export_is_printed(cli, run):
    cli("export", run, "--to", "a.jsonl", "--benchmark", "pope")
    data = f"{run}/scenes-3-2-0.5/annotations.json"
    done = cli("score", SPECS[0], "a.jsonl", "--rule", "official", "--data", data, "--seed", "2")
    assert "pope random: " in done.stdout
    assert "rule official" in done.stdout
    table = cli("report", run, "--read-as", "pope(rule='official')", "--full").stdout
    assert done.stdout.split("Intervals")[0].strip() in table


def test_every_format_has_every_answer(cli, run):
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        assert cli("export", run, "--to", name, "--benchmark", "chair").stderr.endswith(f"wrote 6 answers to {name}\n")
    with open("a.csv", encoding="utf-8", newline="") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    assert {(r["item"], r["strategy"]) for r in rows} == {(i, s) for i in "123" for s in ("greedy", "vdd")}
    assert all(int(r["n"]) == 1 for r in rows)


@pytest.mark.slow
def test_refusals(cli, refused, run):
    cli("export", run, "--to", "a.jsonl")
    assert "exists already" in refused("export", run, "--to", "a.jsonl")
    assert cli("export", run, "--to", "a.jsonl", "--force").returncode == 0
    assert "ends in .jsonl, .parquet, .csv" in refused("export", run, "--to", "a.xlsx")
    assert "has no mme, only pope, chair" in refused("export", run, "--to", "b.jsonl", "--benchmark", "mme")
    assert "holds no run" in refused("export", "nowhere", "--to", "b.jsonl")
    assert "does not exist" in refused("score", "pope", "a.jsonl", "--data", "none.json")
    data = f"{run}/scenes-3-2-0.5/annotations.json"
    assert "rule must be" in refused("score", "pope", "a.jsonl", "--data", data, "--rule", "nice")
    spec = "pope(rule='strict')"
    assert "rule must be left out" in refused("score", spec, "a.jsonl", "--data", data, "--rule", "official")
