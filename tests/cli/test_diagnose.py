"""mmhall diagnose: tables beside targets, the same as JSON, and options that it refuses."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
def test_a_diagnosis_beside_targets(cli, tmp_path):
    (tmp_path / "aims.json").write_text('{"targets": {"chair_i": [0, 100], "recall": [null, -1], "fame": [1, 2]}}')
    done = cli("diagnose", "embedded", "--scenes", 1, "--targets", "aims.json", "--out", "sub/found.json")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    (chair,) = [line for line in done.stdout.splitlines() if line.startswith("CHAIR_i: hallucinated")]
    assert " ".join(chair.split()).endswith("0 to 100 reached")
    assert "at most -1 not reached" in " ".join(done.stdout.split())
    assert "Targets without a figure: fame." in done.stdout
    assert done.stdout.startswith(
        "embedded, float32 on cpu: 1 drawn scenes, kind usual, conflict 0.5, seed 4000; greedy"
    )
    content = json.loads((tmp_path / "sub" / "found.json").read_text())
    (same,) = [figure for figure in content["figures"] if figure["key"] == "chair_i"]
    assert f"{same['value']:.1f}" in chair
    assert same["target"] == [0, 100]
    assert content["targets_without_figure"] == ["fame"]
    assert content["setup"]["model"] == "embedded"


@pytest.mark.slow
def test_pictures_of_ones_own(cli, tmp_path):
    assert cli("scenes", "--n", 3, "--out", "mine").returncode == 0
    done = cli("diagnose", "--data", "mine/annotations.json", "--limit", 1, "--json", "--out", "page.html")
    assert done.returncode == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Diagnosis of embedded" in page
    assert page.count("<svg") > 10
    assert json.loads((tmp_path / "page.json").read_text()) == json.loads(done.stdout)
    content = json.loads(done.stdout)
    assert content["setup"]["pictures"] == 1
    assert content["setup"]["source"] == "annotations.json"
    assert "conflict" not in content["setup"]


@pytest.mark.slow
def test_what_is_refused(refused):
    assert "scenes must be an integer >= 1" in refused("diagnose", "--scenes", 0)
    assert "limit must be an integer >= 1" in refused("diagnose", "--limit", 0)
    assert "nowhere.json: does not exist" in refused("diagnose", "--data", "nowhere.json")
    assert "nowhere.json: does not exist" in refused("diagnose", "--targets", "nowhere.json")
    assert "conflict must be a number in [0, 1]" in refused("diagnose", "--conflict", 2)
    assert "kind must be usual or hard" in refused("diagnose", "--kind", "easy")
    assert "no such folder" in refused("diagnose", "./nowhere")
