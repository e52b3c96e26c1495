"""Paths and options are told first, then the model's config, then its weights: nothing is drawn or loaded in vain."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmhall.results.store import Store

BENCH = ("bench", "pope", "--scenes", "2", "--out", "run")
TUNE = ("tune", "vhr", "--n", "4", "--out", "found.json")
COMMANDS = {
    "bench": BENCH,
    "tune": TUNE,
    "generate": ("generate", "picture.png", "What?"),
    "choose": ("choose", "picture.png", "Is there a dog?"),
    "show": ("show", "vhr"),
    "demo": ("demo", "--port", "0"),
}


@pytest.fixture
def spoiled(model_folder, tmp_path, picture_file):
    """A model whose config or whose weights are cut off; both come last, so that what is told before stands."""

    def spoil(name):
        folder = Path(shutil.copytree(model_folder, tmp_path / f"no-{name}"))
        file = folder / name
        file.write_bytes(file.read_bytes()[:100])
        return folder

    return spoil


REFUSED = [
    (("bench", "pope", "--out", "picture.png/run"), "picture.png is no folder; choose another --out"),
    ((*BENCH[:2], "--out", "run", "--data", "gone.json"), "gone.json: does not exist; pope reads"),
    (("bench", "mme", "--out", "run"), "mme: its data does not ship"),
    ((*BENCH[:2], "--out", "run", "--data", "here.json", "--images", "gone"), "gone: no such folder"),
    ((*BENCH, "--tuned", "gone.json"), "gone.json: does not exist; give a file written by `mmhall tune`"),
    ((*BENCH, "--chat-template", "gone.jinja"), "gone.jinja: the chat template cannot be read"),
    ((*BENCH, "--workers", "0"), "workers must be"),
    ((*BENCH, "--conflict", "2"), "conflict must be a number in [0, 1], got 2.0"),
    ((*TUNE, "--data", "gone.json"), "gone.json: does not exist; give a COCO detection file"),
    ((*TUNE, "--data", "here.json", "--images", "gone"), "gone: no such folder"),
    ((*TUNE[:-1], "."), ".: cannot be written"),
    ((*TUNE[:-1], "here.json"), "here.json: is no file of tuned options"),
    (("generate", "gone.png"), "gone.png: does not exist"),
    (("generate", "picture.png", "--tuned", "gone.json"), "gone.json: does not exist"),
    (("generate", "picture.png", "--heatmap", "gone/a.png"), "its folder does not exist"),
    (("generate", "picture.png", "--max-new-tokens", "0"), "max_new_tokens must be"),
    (("choose", "gone.png", "What?"), "gone.png: does not exist"),
    (("choose", "picture.png", "What?", "--scoring", "x"), "scoring must be"),
    (("show", "vhr", "--tuned", "gone.json"), "gone.json: does not exist"),
    (("demo", "--runs", "gone"), "gone: no such folder"),
    (("demo", "--tuned", "gone.json"), "gone.json: does not exist"),
]


@pytest.mark.slow
def test_paths_and_options_are_told_before_a_model_that_cannot_be_loaded(refused, spoiled):
    Path("here.json").write_text("{}")
    model = spoiled("config.json")
    for arguments, told in REFUSED:
        assert told in refused(*arguments, "--model", model), arguments
        assert not Path("run").exists(), arguments


def test_the_config_is_told_before_anything_is_drawn_or_printed(cli, spoiled):
    model = spoiled("config.json")
    for command, arguments in COMMANDS.items():
        done = cli(*arguments, "--model", model)
        assert done.returncode == 2, command
        assert "config.json" in done.stderr, command
        assert "drawing" not in done.stderr, command
        assert done.stdout == "", command
        assert not Path("run").exists(), command


@pytest.mark.slow
@pytest.mark.parametrize(("command", "draws"), [("bench", True), ("tune", True), ("generate", False)])
def test_scenes_are_drawn_before_weights_are_read(cli, spoiled, command, draws):
    done = cli(*COMMANDS[command], "--model", spoiled("model.safetensors"))
    assert done.returncode == 2
    assert "cannot load model" in done.stderr
    assert ("drawing scenes" in done.stderr) is draws


@pytest.mark.slow
def test_data_that_is_unfit_is_told_before_weights_are_read(refused, spoiled):
    Path("data.json").write_text("[]")
    for arguments in (("bench", "pope", "--out", "run"), TUNE):
        line = refused(*arguments, "--data", "data.json", "--model", spoiled("model.safetensors"))
        assert "is no COCO detection file" in line
        shutil.rmtree("no-model.safetensors")


def test_a_model_that_reads_no_pictures_is_told_before_anything_is_drawn(refused, model_folder, tmp_path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "text"))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert "a llama model does not read pictures and text" in refused(*BENCH, "--model", folder)
    assert not Path("run").exists()


def test_a_missing_tokenizer_is_told_before_weights_are_read(refused, spoiled, picture_file):
    folder = spoiled("model.safetensors")
    for file in folder.glob("*token*"):
        file.unlink()
    assert "tokenizer" in refused("generate", picture_file, "--model", folder)


def test_a_damaged_run_is_told_before_the_model(refused, spoiled):
    Path("run").mkdir()
    Path("run", "run.sqlite").write_bytes(b"no database" * 100)
    assert "run.sqlite: " in refused(*BENCH, "--model", spoiled("config.json"))


def test_more_gpus_than_there_are_are_told_before_the_model(refused, spoiled, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    asked = (*BENCH, "--workers", "2", "--gpus-per-worker", "3", "--model", spoiled("config.json"))
    assert "gpus_per_worker must be at most 1" in refused(*asked)


def test_checking_a_folder_leaves_no_trace(tmp_path):
    Store.check(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_answers_are_looked_for_before_the_hub_is_asked(refused):
    assert "gone.jsonl: does not exist" in refused("score", "pope", "gone.jsonl", "--data", "hub:")
    Path("answers.jsonl").write_text("{}")
    assert "gone: does not exist" in refused("score", "pope", "answers.jsonl", "--data", "gone")


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_told_before_the_model(refused, spoiled, monkeypatch):
    """The address is of a port that nobody listens at."""
    pytest.importorskip("ray")
    monkeypatch.setattr("mmhall.benchmarks.run.cluster.PATIENCE", 1.5)
    asked = (*BENCH, "--engine", "ray", "--address", "127.0.0.1:1", "--model", spoiled("config.json"))
    assert "127.0.0.1:1: no Ray cluster can be reached there" in refused(*asked)
    assert not Path("run").exists()
