"""Published benchmarks from the command line, on a tiny random model."""

from __future__ import annotations

import json

import pytest

from mmhall.benchmarks.mmhal import TYPES
from tests.benchmarks.conftest import amber, picture, write_json, write_lines
from tests.benchmarks.test_hallusion import RECORDS

__all__ = ["amber"]


@pytest.fixture
def bench(cli, model_folder):
    """Bench one benchmark; return its metrics by group and name."""

    def run(spec, data, *more):
        asked = ("bench", spec, "--data", data, "--model", model_folder, "--out", "run", "--json", *more)
        done = cli(*asked)
        assert done.returncode == 0, done.stderr
        return {(m["group"], m["metric"]): m for m in json.loads(done.stdout)["metrics"]}

    return run


@pytest.mark.slow
def test_amber(bench, amber, tmp_path):
    got = bench("amber-d(max_new_tokens=2)", amber)
    assert got["overall", "accuracy"]["under"] == 12
    assert got["existence", "recall"]["under"] == 2
    (tmp_path / "run" / "run.sqlite").unlink()
    got = bench("amber-g(max_new_tokens=4)", amber)
    assert got["captions", "Cover"]["under"] == 4


def test_popes_nine_cells(bench, tmp_path):
    for name in ("coco", "aokvqa", "gqa"):
        picture(tmp_path / f"{'gqa-images' if name == 'gqa' else 'val2014'}" / f"{name}.png")
        for setting in ("random", "popular", "adversarial"):
            asked = [
                {"question_id": n, "image": f"{name}.png", "text": f"Is there a {thing} in the image?", "label": label}
                for n, (thing, label) in enumerate((("dog", "yes"), ("cat", "no")), 1)
            ]
            write_lines(tmp_path / "pope" / f"{name}_pope_{setting}.json", asked)
    got = bench("pope(max_new_tokens=2, gqa_images='gqa-images')", tmp_path / "pope", "--images", tmp_path / "val2014")
    assert len({group for group, _ in got}) == 10
    assert got["gqa popular", "accuracy"]["under"] == 2
    cells = [m["value"] for (group, metric), m in got.items() if metric == "accuracy" and group != "mean"]
    assert got["mean", "accuracy"]["value"] == pytest.approx(sum(cells) / 9)


@pytest.mark.slow
def test_beaf_on_drawn_scenes(cli, model_folder):
    asked = ("bench", "beaf(max_new_tokens=1)", "--scenes", "2", "--model", model_folder, "--out", "run", "--json")
    done = cli(*asked)
    assert done.returncode == 0, done.stderr
    got = {m["metric"]: m for m in json.loads(done.stdout)["metrics"]}
    assert got["TU"]["under"] == 2
    assert got["ID"]["under"] > 4
    assert cli(*asked).returncode == 0  # goes on with the pictures that are there


@pytest.mark.slow
def test_probes_on_drawn_scenes(cli, model_folder):
    asked = ("bench", "agnosia(max_new_tokens=1)", "vlind(max_new_tokens=1)", "--scenes", "2", "--model", model_folder)
    done = cli(*asked, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    got = {(m["benchmark"], m["group"], m["metric"]): m for m in json.loads(done.stdout)["metrics"]}
    assert got["agnosia", "entity", "both right"]["under"] > 1
    assert got["agnosia", "all", "without a picture"]["under"] == got["agnosia", "all", "accuracy"]["under"] > 20
    assert got["vlind", "all", "S_CK"]["under"] == 2
    assert "chance" in cli("report", "run").stdout
    shown = cli("report", "run", "--full")
    assert "agnosia entity" in shown.stdout
    assert "S_LP" in shown.stdout


def test_mme(bench, tmp_path):
    picture(tmp_path / "a.png")
    entries = [
        {"image": "a.png", "question": q, "answer": a, "category": "color"} for q, a in (("R?", "Yes"), ("B?", "No"))
    ]
    got = bench("mme(max_new_tokens=2)", write_lines(tmp_path / "m.jsonl", entries))
    assert got["color", "acc"]["under"] == 2
    assert got["hallucination", "acc+"]["under"] == 1
    assert ("count", "acc") not in got


@pytest.mark.slow
def test_hallusion(bench, tmp_path):
    for each in RECORDS:
        if each["filename"]:
            picture(tmp_path / each["filename"])
    data = write_json(tmp_path / "HallusionBench.json", RECORDS)
    got = bench("hallusion(max_new_tokens=2, text_only=False)", data)
    assert got["overall", "aAcc"]["under"] == 6
    assert got["hard", "fAcc"]["under"] == 2
    (tmp_path / "run" / "run.sqlite").unlink()
    got = bench("hallusion(max_new_tokens=2)", data, "--batch-size", "1")
    assert got["overall", "aAcc"]["under"] == 7


def test_mmhal_scores_nothing_until_it_is_judged(bench, cli, tmp_path):
    entries = []
    for n in range(2):
        picture(tmp_path / f"{n}.jpg")
        told = {"question": f"What is {n}?", "gt_answer": "It.", "image_content": ["Cat"], "question_type": TYPES[n]}
        entries.append({**told, "image_id": f"{n}"})
    got = bench("mmhal(max_new_tokens=2)", write_json(tmp_path / "response_template.json", entries))
    assert got["overall", "score"]["value"] is None
    assert got["overall", "judged"]["value"] == 0
    (tmp_path / "template").write_text("{} {} {} {}")
    assert cli("judge", "run", "--requests", "asked", "--template", "template").returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    write_lines(tmp_path / "said", [{**line, "reply": "Rating: 4"} for line in lines])
    assert "2 answers judged by imported" in cli("judge", "run", "--replies", "said").stderr
