"""The training script makes a model that loads, from the plain one, in one small step."""

from __future__ import annotations

import sys
from functools import cache, partial

import pytest
import torch
import torch._dynamo

import mmhall
from mmhall.benchmarks.scenes import make_scene
from mmhall.benchmarks.scenes.train import __main__ as script, pictures, prior
from mmhall.models import SHIPPED


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["train", *map(str, options)])
    with torch._dynamo.config.patch(disable=True):  # compiling takes longer than a step
        script.main()


@pytest.mark.long
@pytest.mark.slow
def test_prior_is_trained_from_the_plain_model_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "_CHUNK", 8)
    monkeypatch.setitem(script.PICTURES, "hard", 8)
    monkeypatch.setattr(prior, "_print_shares", partial(prior._print_shares, 50))
    monkeypatch.setattr(prior, "make_prior_tokenizer", cache(prior.make_prior_tokenizer))
    options = ("--work", tmp_path / "work", "--out", tmp_path / "out", "--model", "prior")
    run(monkeypatch, *options, "--start", SHIPPED["embedded"], "--scale", 0.0001, "--seed", 7)
    assert "saved to" in capsys.readouterr().out
    saved = torch.load(tmp_path / "work" / "prior-7.pt", weights_only=True)
    assert saved["step"] == 1
    lvlm = mmhall.load(tmp_path / "out")
    assert lvlm.adapter.model.config.text_config.num_hidden_layers == 10
    tokenizer = lvlm.adapter.tokenizer
    assert tokenizer.unk_token_id not in tokenizer("Overall, it takes up a large part, together with a wall.").input_ids
    text = lvlm.generate(make_scene(1, 0, kind="hard").image, "Is there a dog in the image?", max_new_tokens=8).text
    assert text.startswith(("Yes", "No"))
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    run(monkeypatch, *options, "--start", SHIPPED["embedded"], "--scale", 0.0001, "--seed", 7)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights
    options = ("--work", tmp_path / "work", "--out", tmp_path / "next", "--start", tmp_path / "out", "--scale", 0.0001)
    run(monkeypatch, *options, "--model", "mechanisms")
    with pytest.raises(SystemExit, match="prior starts from the plain model"):
        run(monkeypatch, *options, "--model", "prior")
    assert mmhall.load(tmp_path / "next").generate(None, "Is there a dog in the image?", max_new_tokens=8).text


def test_a_plain_model_starts_from_nothing(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--work", tmp_path, "--out", tmp_path, "--start", tmp_path)
    assert "add --model prior or mechanisms" in capsys.readouterr().err
