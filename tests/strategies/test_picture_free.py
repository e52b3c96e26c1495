"""Picture-free inputs of every family."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from mmhall.adapters import adapter_for
from mmhall.adapters._base import PER_POSITION, Request
from mmhall.errors import ModelError
from mmhall.strategies._noise import add_noise
from mmhall.strategies._picture_free import PICTURE_FREE, picture_free_inputs, picture_free_kinds
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours
from tests.zoo import built

pytestmark = QUIET

FULL = ("noise", "zero", "one", "black")
PADDED = ("idefics2", "idefics3", "smolvlm")
"""They take a picture of zeros for padding."""


def logits(adapter, inputs):
    with torch.inference_mode():
        return adapter.model_for(inputs)(**inputs).logits[:, -1]


@pytest.mark.parametrize("name", FAMILIES)
def test_they_do_not_depend_on_what_a_picture_shows(name):
    adapter = ours(name)
    other = Request(
        REQUESTS[0].prompt, tuple(image.transpose(Image.Transpose.ROTATE_90) for image in REQUESTS[0].images)
    )
    for kind in PICTURE_FREE:
        one, two = (picture_free_inputs(adapter, adapter.inputs([request]), kind) for request in (REQUESTS[0], other))
        assert one.keys() == two.keys(), kind
        assert torch.equal(one["input_ids"], two["input_ids"]), kind
        if "pixel_values" in one:
            gap = (one["pixel_values"] - two["pixel_values"]).abs().max()
            assert gap == 0 if kind != "noise" else gap > 0, kind
        answers = [logits(adapter, inputs) for inputs in (one, two)]
        assert answers[0].isfinite().all(), kind
        if kind != "noise":
            torch.testing.assert_close(*answers, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_told_what_its_prompts_are_told_alone(name):
    """And pictures that show nothing keep the prompt."""
    adapter, requests = ours(name), REQUESTS[:3]
    inputs = adapter.inputs(requests)
    for kind in PICTURE_FREE:
        batch = picture_free_inputs(adapter, inputs, kind)
        alone = adapter.stack([picture_free_inputs(adapter, adapter.inputs([request]), kind) for request in requests])
        assert batch.keys() == alone.keys(), kind
        assert all(torch.equal(batch[key], alone[key]) for key in batch), kind
        if kind in FULL:
            assert batch.keys() == inputs.keys(), kind
            assert all(torch.equal(batch[key], inputs[key]) for key in PER_POSITION if key in inputs), kind
            assert batch["pixel_values"].shape == inputs["pixel_values"].shape, kind


@pytest.mark.parametrize("name", FAMILIES)
def test_zero_is_a_picture_and_no_padding(name):
    adapter = ours(name)
    inputs = adapter.inputs([Request("What?", REQUESTS[0].images)])
    zero, one = (picture_free_inputs(adapter, inputs, kind) for kind in ("zero", "one"))
    pixels = zero["pixel_values"]
    assert (pixels != 0).all()
    torch.testing.assert_close(pixels, torch.zeros_like(pixels), rtol=0, atol=1e-5)
    assert torch.equal(one["pixel_values"], torch.ones_like(pixels))
    level = 1e-30 if name in PADDED else 0.0
    exact = adapter.with_pixels(inputs, lambda pixels: torch.full_like(pixels, level))
    torch.testing.assert_close(logits(adapter, zero), logits(adapter, exact), rtol=0, atol=0.01)
    assert (logits(adapter, zero) - logits(adapter, one)).abs().max() > 0.05


def test_noise_is_that_of_the_last_step_and_of_its_seed():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])
    made = picture_free_inputs(adapter, inputs, "noise", seed=4)["pixel_values"]
    assert torch.equal(made, add_noise(adapter, inputs, 999, 4)["pixel_values"])
    assert not torch.equal(made, picture_free_inputs(adapter, inputs, "noise", seed=5)["pixel_values"])


def test_black_is_what_a_black_picture_is():
    adapter = ours("llava")
    black = adapter.inputs([Request("What?", (Image.new("RGB", (40, 40)),))])
    made = picture_free_inputs(adapter, adapter.inputs([Request("What?", REQUESTS[0].images)]), "black")
    torch.testing.assert_close(made["pixel_values"], black["pixel_values"])


@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
def test_tokenizers_without_an_unknown_token_use_padding(name, monkeypatch):
    adapter = ours(name)
    monkeypatch.setattr(type(adapter.tokenizer), "unk_token_id", None, raising=False)
    inputs = adapter.inputs(REQUESTS[:1])
    ids, bare = (picture_free_inputs(adapter, inputs, kind)["input_ids"][0].tolist() for kind in ("unk", "none"))
    assert ids.count(adapter.pad_token_id) == bare.count(adapter.pad_token_id) + 1
    assert len(ids) == len(bare) + 1


def test_a_model_without_its_processor_says_what_it_needs():
    inputs = ours("llava").inputs(REQUESTS[:1])
    adapter = adapter_for(built("llava")[0])
    try:
        for kind in ("unk", "black"):
            with pytest.raises(ModelError, match=f"of kind '{kind}' need the model's processor"):
                picture_free_inputs(adapter, inputs, kind)
        for kind in set(PICTURE_FREE) - {"unk", "black"}:
            assert "input_ids" in picture_free_inputs(adapter, inputs, kind)
    finally:
        adapter.close()


@pytest.mark.parametrize("free", ["", "none+", "none+none", "white", "none unk", "None"])
def test_what_is_no_combination_has_no_kinds(free):
    assert picture_free_kinds(free) == ()
