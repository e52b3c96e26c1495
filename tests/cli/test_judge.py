"""`mmhall judge`, typed as a person types it."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.conftest import write_lines
from tests.benchmarks.run.test_judge import TEMPLATE, replies_of, run, serving

__all__ = ["run"]


@pytest.fixture
def folder(run):
    return run.store.path.parent


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "template.txt"
    path.write_text(TEMPLATE)
    return path


def test_an_endpoint_judges(cli, run, folder, template, monkeypatch):
    monkeypatch.setenv("MMHALL_JUDGE_KEY", "secret")
    with serving("Rating: 5") as (url, asked):
        done = cli("judge", folder, "--endpoint", url, "--model", "wise", "--template", template)
    assert done.returncode == 0
    assert "4 answers judged by wise (" in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert {key for _, key, _ in asked} == {"Bearer secret"}
    assert {reply for _, _, reply, _ in replies_of(run)} == {"Rating: 5"}


def test_prompts_out_and_replies_in(cli, run, folder, template, tmp_path):
    assert "wrote 4 prompts" in cli("judge", folder, "--requests", "asked.jsonl", "--template", template).stderr
    lines = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text().splitlines()]
    write_lines(tmp_path / "said.jsonl", [{**line, "reply": "Rating: 2"} for line in lines])
    assert "4 answers judged by me" in cli("judge", folder, "--replies", "said.jsonl", "--judge", "me").stderr
    assert len(replies_of(run)) == 4


@pytest.mark.slow
def test_nothing_is_asked_without_being_told_whom(refused, folder, template, tmp_path):
    assert "source must be one of --endpoint, --replies or --requests, got None" in refused("judge", folder)
    two = ("judge", folder, "--replies", "a", "--requests", "b")
    assert "got 'replies and requests'" in refused(*two)
    assert "model must be given together with --endpoint" in refused("judge", folder, "--endpoint", "http://a")
    asked = ("judge", folder, "--endpoint", "file:///etc/passwd", "--model", "m", "--template", template)
    assert "endpoint must be an address" in refused(*asked)
    asked = ("judge", folder, "--endpoint", "http://a", "--model", "m")
    assert "template must be a file: the authors' prompt for mmhal does not ship" in refused(*asked)
    assert "timeout must be a number > 0" in refused(*asked, "--timeout", "0")
    assert "nowhere: does not exist" in refused(*asked, "--template", "nowhere")
    assert "holds no run" in refused("judge", tmp_path, "--replies", "x")
    assert "x: does not exist; expected replies" in refused("judge", folder, "--replies", "x")
