from __future__ import annotations

import threading

import pytest
import torch

import mmhall
from mmhall.adapters.base import Request
from mmhall.errors import ImageError, ModelError, OptionError, PromptError, UnknownNameError
from mmhall.lvlm import LVLM


def test_a_streams_consumer_that_leaves_stops_the_computation(llava, pictures):
    calls = []
    llava.model.lm_head.register_forward_hook(lambda *_: calls.append(1))
    pieces = llava.stream(pictures[0], "What is this?", "vdd", max_new_tokens=300)
    next(pieces)
    pieces.close()
    assert len(calls) < 100
    assert threading.active_count() == 1


def test_a_stream_checks_its_arguments_before_it_starts(llava, pictures):
    with pytest.raises(PromptError, match="3 beams cannot be streamed"):
        llava.stream(pictures[0], "What?", num_beams=3)
    with pytest.raises(UnknownNameError, match="did you mean 'vcd'"):
        llava.stream(pictures[0], "What?", "vccd")


def test_an_error_in_a_stream_reaches_its_consumer(llava, pictures):
    llava.model.lm_head.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("on purpose")))
    with pytest.raises(RuntimeError, match="on purpose"):
        list(llava.stream(pictures[0], "What?", "vcd"))


def test_no_requests_give_no_answers(llava):
    assert llava.generate_batch([]) == []


def test_prompts_with_and_without_pictures_do_not_mix(llava, pictures):
    with pytest.raises(PromptError, match="mixes prompts with and without a picture"):
        llava.generate_batch([(pictures[0], "a"), (None, "b")])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_tokens": 3}, UnknownNameError, "unknown generation setting 'max_tokens'; did you mean 'max_new_tokens'"),
        ({"temperature": 0.0}, OptionError, "temperature must be a number > 0"),
        ({"temperature": float("nan")}, OptionError, "temperature must be a number > 0"),
        ({"top_p": 1.5}, OptionError, r"top_p must be a number in \(0, 1\]"),
        ({"num_beams": 0}, OptionError, "num_beams must be an integer >= 1"),
        ({"num_beams": "3"}, OptionError, "num_beams must be"),
        ({"max_new_tokens": 500}, PromptError, "500 new ones exceed the model's context of 512"),
    ],
)
def test_bad_settings_are_refused(llava, pictures, settings, error, message):
    with pytest.raises(error, match=message):
        llava.generate(pictures[0], "What?", **settings)


def test_a_missing_picture_is_an_error(llava):
    with pytest.raises(ImageError):
        llava.generate("gone.png", "What?")


def test_sampling_leaves_the_global_generator_alone(llava, pictures):
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    llava.generate(pictures[0], "What?", do_sample=True, seed=9, max_new_tokens=3)
    torch.testing.assert_close(torch.rand(1), wanted)


def test_sampling_follows_its_seed_and_temperature(llava, pictures):
    def said(**settings):
        return llava.generate(pictures[0], "What?", do_sample=True, max_new_tokens=12, **settings).token_ids

    assert said(seed=1) == said(seed=1)
    assert len({said(seed=seed) for seed in range(4)}) > 1
    greedy = llava.generate(pictures[0], "What?", max_new_tokens=12).token_ids
    assert said(seed=1, temperature=1e-4) == greedy


def test_sampling_settings_are_in_the_answers_record(llava, pictures):
    sampled = llava.generate(pictures[0], "What?", do_sample=True, top_p=0.5, seed=4, max_new_tokens=2)
    assert sampled.settings | {"do_sample": True, "top_p": 0.5, "seed": 4} == sampled.settings
    assert llava.generate(pictures[0], "What?", max_new_tokens=2).settings["do_sample"] is False


def test_image_positions_are_marked_and_nothing_else(llava, pictures):
    inputs = llava.adapter.inputs(
        [Request("Is there a dog?", pictures[0]), Request("Describe this image.", pictures[1])]
    )
    mask = llava.adapter.image_mask(inputs["input_ids"])
    assert mask.sum(1).tolist() == [64, 64]
    assert (inputs["input_ids"][mask] == llava.adapter.image_token_id).all()


def test_an_unsupported_family_is_refused(llava, monkeypatch):
    monkeypatch.setattr(type(llava.model.config), "model_type", "other")
    with pytest.raises(ModelError, match="model type 'other' is not supported yet; supported: llava"):
        LVLM(llava.model, llava.processor)


def test_fingerprints_tell_weights_apart(llava):
    before = llava.fingerprint()
    assert llava.fingerprint() == before
    with torch.no_grad():
        llava.model.lm_head.weight[0, 0] += 1
    assert llava.fingerprint() != before


@pytest.mark.parametrize(
    ("name", "message"), [("/no/such/folder", "cannot load model"), ("nobody/nothing", "cannot load model")]
)
def test_what_cannot_be_loaded_is_one_line(name, message):
    with pytest.raises(ModelError, match=message) as caught:
        mmhall.load(name)
    assert "\n" not in str(caught.value)
