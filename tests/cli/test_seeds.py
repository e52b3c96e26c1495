"""`mmhall bench --seeds` and `mmhall report --aggregate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.run.seeds import seeded_runs
from mmhall.errors import OptionError

SAMPLED = Pope(sample=True)


def test_each_seed_has_a_folder_and_the_benchmark_with_it():
    found = seeded_runs(Path("out"), [SAMPLED], "0, 7")
    assert found == [(Path("out/seed-0"), [SAMPLED]), (Path("out/seed-7"), [Pope(sample=True, sample_seed=7)])]
    assert seeded_runs(Path("out"), [SAMPLED, Chair()], None) == [(Path("out"), [SAMPLED, Chair()])]


@pytest.mark.parametrize("text", ["", "a", "1,1", "1,-2", "0,,1", "1.5", "01,1"])
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(OptionError, match="seeds must be different integers >= 0"):
        seeded_runs(Path("out"), [SAMPLED], text)


def test_seeds_need_sampled_answers():
    with pytest.raises(OptionError, match=r'left out with chair, which is not sampled; write "pope\(sample=True\)"'):
        seeded_runs(Path("out"), [SAMPLED, Chair()], "0,1")


@pytest.mark.slow
def test_seeds_are_answered_continued_and_reported_together(cli, model_folder, refused):
    asked = ("bench", "pope(sample=True, max_new_tokens=2)", "--model", model_folder, "--scenes", "2")
    asked += ("--strategy", "greedy", "--strategy", "vdd", "--out", "drawn", "--seeds")
    first = cli(*asked, "0,1", "--full")
    assert first.returncode == 0, first.stderr
    assert "2 seeds) [" in first.stdout
    assert "sampled: a tick needs 3 seeds" in first.stdout
    done = cli(*asked, "0,1,2", "--full")
    assert "3 seeds) [" in done.stdout
    assert "They differ in: seed of the draws." in done.stdout
    assert "2 pictures" in done.stdout
    assert "sampled: a tick needs" not in done.stdout
    folders = [f"drawn/seed-{seed}" for seed in range(3)]
    again = cli("report", *folders, "--aggregate", "--full")
    assert again.stdout == done.stdout
    told = json.loads(cli("report", *folders, "--aggregate", "--json").stdout)
    assert len(told["metrics"][0]["runs"]) == 3
    assert "html must be left out with --aggregate" in refused("report", *folders, "--aggregate", "--html", "a.html")
    assert "is one run" in refused("report", folders[0], "--aggregate")
