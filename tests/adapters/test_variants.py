"""Variants of a batch: without its pictures, with other pixels, of one grey, with an answer written after it."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from PIL import Image

from mmhall.adapters._base import PER_POSITION, Request
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._run import prepare_inputs
from mmhall.generation._settings import Settings
from mmhall.generation._state import prefill
from mmhall.words import special_tokens
from tests.adapters.conftest import noise
from tests.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHORT, LONG = "Why?", "What is it that we see\n\n on the left?"
SEVERAL = [name for name in ZOO if name not in ("blip_2", "instructblip")]
SPACED = {
    "llava",
    "llava_qwen2",
    "llava_phi3",
    "vipllava",
    "llava_next",
    "llava_onevision",
    "internvl",
    "gemma3",
    "idefics3",
    "smolvlm",
}
"""Their templates set a picture off with white space that a question without one does not have."""


def logits(adapter, inputs):
    with torch.no_grad():
        return adapter.model(**inputs).logits[:, -1]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def pair(wide, tall):
    return Request(SHORT, (wide,)), Request(LONG, (tall,))


def uneven(wide, tall):
    """Requests of two pictures and of one; most families spend fewer tokens on thin pictures than on others."""
    thin, square = noise(200, 20), noise(64, 64)
    return (
        Request(SHORT, (thin, thin)),
        Request(LONG, (square,)),
        Request(SHORT, (wide, tall)),
        Request(LONG, (thin,)),
    )


def bent(pixels):
    """Noise that depends on nothing but the shape of the pixels."""
    return pixels * 0.5 + torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.contract
def test_image_free_inputs_hold_the_text_alone(name, adapter, wide, tall):
    requests = pair(wide, tall)
    inputs = adapter.inputs(requests)
    bare, asked = adapter.without_image(inputs), adapter.inputs([Request(request.prompt) for request in requests])
    assert bare.keys() == asked.keys() == inputs.keys() & (set(PER_POSITION) - {"cross_attention_mask"})
    assert same(bare, asked) == (name not in SPACED)
    special = torch.tensor(list(special_tokens(adapter.tokenizer).values()))
    for row in range(2):
        kept, wanted, full = (
            batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist() for batch in (bare, asked, inputs)
        )
        rest = iter(full)
        assert all(token in rest for token in kept)  # a subsequence
        assert [token for token in kept if token in special] == [token for token in wanted if token in special]
        text, question = adapter.tokenizer.decode(kept), adapter.tokenizer.decode(wanted)
        assert text.split() == question.split() or name in ("idefics3", "smolvlm")
        assert "".join(text.split()) == "".join(question.split())
        assert requests[row].prompt in text


def test_image_free_inputs_are_padded_on_the_left_and_can_be_answered(adapter, wide, tall):
    requests = pair(wide, tall)
    bare = adapter.without_image(adapter.inputs(requests))
    assert same(bare, adapter.stack([adapter.without_image(adapter.inputs([request])) for request in requests]))
    assert bare["attention_mask"][0].tolist() == sorted(bare["attention_mask"][0].tolist())
    assert bare["attention_mask"].sum(dim=1)[0] < bare["input_ids"].shape[1]
    written = adapter.model_for(bare).generate(**bare, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert written.shape == (2, bare["input_ids"].shape[1] + 3)


def test_a_replacement_stands_once_for_each_run_of_image_positions(adapter, wide, tall):
    requests = pair(wide, tall)
    inputs, unknown = adapter.inputs(requests), adapter.tokenizer.unk_token_id
    replaced, bare = adapter.without_image(inputs, unknown), adapter.without_image(inputs)
    assert replaced.keys() == bare.keys()
    for row in range(2):
        runs = sum(1 for holds, _ in groupby(adapter.placeholders(inputs["input_ids"])[row].tolist()) if holds)
        ids = replaced["input_ids"][row][replaced["attention_mask"][row] == 1]
        assert (ids == unknown).sum() == runs >= 1
        at = (ids == unknown).nonzero()[:, 0]
        assert torch.equal(ids[ids != unknown], bare["input_ids"][row][bare["attention_mask"][row] == 1])
        assert at.tolist() == list(range(int(at[0]), int(at[0]) + runs))
    written = adapter.model_for(replaced).generate(**replaced, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert written.shape == (2, replaced["input_ids"].shape[1] + 3)


@pytest.mark.parametrize("name", SEVERAL)
def test_all_pictures_of_a_prompt_are_taken_out(name, adapter, wide, tall):
    inputs = adapter.inputs([Request(LONG, (wide, tall, wide))])
    bare = adapter.without_image(inputs)
    text, question = (
        adapter.tokenizer.decode(batch["input_ids"][0]) for batch in (bare, adapter.inputs([Request(LONG)]))
    )
    assert "".join(text.split()) == "".join(question.split())
    assert LONG in text


def test_pixels_left_alone_stay_bit_equal(adapter, wide, tall):
    inputs = adapter.inputs(pair(wide, tall))
    assert same(inputs, adapter.with_pixels(inputs, lambda pixels: pixels.clone()))


@pytest.mark.contract
def test_changed_pixels_change_what_each_request_is_told_and_nothing_else(adapter, wide, tall):
    inputs = adapter.inputs(pair(wide, tall))
    before = inputs["pixel_values"].clone()
    changed = adapter.with_pixels(inputs, bent)
    assert torch.equal(inputs["pixel_values"], before)
    assert same(inputs, {**changed, "pixel_values": before})
    assert ((logits(adapter, changed) - logits(adapter, inputs)).abs().amax(dim=1) > 0.01).all()


def test_the_pixels_of_a_batch_change_as_those_of_its_requests(adapter, wide, tall):
    requests = pair(wide, tall)
    batch = adapter.with_pixels(adapter.inputs(requests), bent)
    assert same(batch, adapter.stack([adapter.with_pixels(adapter.inputs([request]), bent) for request in requests]))


@pytest.mark.parametrize("name", SEVERAL)
def test_the_pixels_of_several_pictures_change_with_their_request(adapter, wide, tall):
    requests = uneven(wide, tall)
    batch = adapter.with_pixels(adapter.inputs(requests), bent)
    assert same(batch, adapter.stack([adapter.with_pixels(adapter.inputs([request]), bent) for request in requests]))


def test_all_of_a_picture_changes_and_padding_does_not_matter(adapter, wide):
    """Black areas are part of a picture; what is zero for black and white alike is padding, which no model reads."""
    half = wide.copy()
    half.paste("black", (0, 32, 96, 64))
    black, white = (adapter.inputs([Request(SHORT, (Image.new("RGB", (96, 64), c),))]) for c in ("black", "white"))
    padding = (black["pixel_values"] == 0) & (white["pixel_values"] == 0)
    for inputs in (adapter.inputs([Request(SHORT, (half,))]), black, white):
        changed = adapter.with_pixels(inputs, lambda pixels: pixels + 0.25)["pixel_values"] != inputs["pixel_values"]
        assert changed[~padding].all()
    filled = {**white, "pixel_values": white["pixel_values"].masked_fill(padding, 0.7)}
    torch.testing.assert_close(logits(adapter, filled), logits(adapter, white), rtol=0, atol=0)


def test_constant_pixels_are_those_of_a_picture_of_that_grey(adapter, wide):
    inputs = adapter.inputs([Request(SHORT, (wide,))])
    black, grey, white = (
        adapter.inputs([Request(SHORT, (Image.new("RGB", wide.size, shade),))])
        for shade in ("black", (128, 128, 128), "white")
    )
    shown = black["pixel_values"] != white["pixel_values"]
    assert shown.any()
    for value, real in (0.0, black), (0.5, grey), (1.0, white):
        constant = adapter.constant_pixels(inputs, value)
        assert same({**constant, "pixel_values": real["pixel_values"]}, real)
        assert constant["pixel_values"].shape == real["pixel_values"].shape
        assert ((constant["pixel_values"] - real["pixel_values"]).abs()[shown] < 1e-2).all()
        assert logits(adapter, constant).isfinite().all()


def test_constant_black_answers_as_black_pictures_do(adapter, wide, tall):
    requests = pair(wide, tall)
    black = [Request(r.prompt, tuple(Image.new("RGB", image.size) for image in r.images)) for r in requests]
    constant = logits(adapter, adapter.constant_pixels(adapter.inputs(requests), 0.0))
    torch.testing.assert_close(constant, logits(adapter, adapter.inputs(black)), atol=1e-3, rtol=0)


def test_patches_are_masked_whole_by_the_mean_colour(adapter, wide):
    """A picture of one colour masks to itself; of another one, a share of its patches changes, drawn by the seed."""

    def masked(image, share, seed=0):
        pixels = adapter.inputs([Request(SHORT, (image,))])["pixel_values"]
        found = adapter.mask_patches(pixels, share, torch.Generator().manual_seed(seed))
        assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
        return found, pixels

    plain, pixels = masked(Image.new("RGB", wide.size, (200, 30, 90)), 1.0)
    inside = ~adapter.padding_mask(pixels).expand_as(pixels)
    if adapter.model.config.model_type not in ("llava_next", "mllama"):  # whose tiles have black bars
        torch.testing.assert_close(plain[inside], pixels[inside], rtol=0, atol=1e-4)
    found, pixels = masked(wide, 0.5)
    changed, index = found != pixels, adapter.patch_index(pixels).expand_as(pixels)
    assert torch.equal(changed & ~inside, torch.zeros_like(changed))
    each = [changed[inside & (index == patch)] for patch in index[inside].unique()]
    assert all(bool(patch.all()) or not patch.any() for patch in each)
    share = sum(bool(patch.any()) for patch in each) / len(each)
    assert share == int(0.5 * len(each)) / len(each) if inside.all() else 0.25 < share < 0.75
    assert torch.equal(masked(wide, 0.5)[0], found)
    assert not torch.equal(masked(wide, 0.5, seed=1)[0], found)
    assert torch.equal(masked(wide, 0.0)[0], pixels)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_constant_pixels_work_where_requests_have_different_numbers_of_pictures(name, adapter, wide, tall):
    requests, value = uneven(wide, tall)[:3], (0.0, 0.5, 1.0)[SEVERAL.index(name) % 3]
    batch = logits(adapter, adapter.constant_pixels(adapter.inputs(requests), value))
    alone = [logits(adapter, adapter.constant_pixels(adapter.inputs([request]), value)) for request in requests]
    torch.testing.assert_close(batch, torch.cat(alone), atol=1e-2, rtol=0)


def teacher_forced(adapter, inputs, answer):
    """Logits after the prompt and after each token of an answer, in one pass over all of it."""
    config = Settings(max_new_tokens=1).resolved(adapter.generator)
    whole = prepare_inputs(adapter, adapter.append_answer(inputs, answer), config)
    whole.kwargs.pop("logits_to_keep", None)
    read = whole.model.prepare_inputs_for_generation(whole.input_ids, is_first_iteration=True, **whole.kwargs)
    return whole.model(**read, return_dict=True).logits[:, -answer.shape[1] - 1 :].float()


def step_by_step(adapter, inputs, answer):
    """The same, token by token."""
    new = Settings(max_new_tokens=answer.shape[1] + 1).resolved(adapter.generator)
    state = prefill(PlannedBatch(prepare_inputs(adapter, inputs, new)))
    seen = [state.logits]
    for token in answer.T:
        state.read(token[:, None])
        seen.append(state.logits)
    return torch.stack(seen, dim=1)


@pytest.mark.slow
def test_an_answer_read_at_once_gives_the_logits_of_decoding_it(adapter, wide, tall):
    batch = adapter.inputs(pair(wide, tall))
    answer = torch.randint(60, 250, (2, 28), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for inputs in (batch, adapter.without_image(batch)):
            rows = answer[: len(inputs["input_ids"])]
            forced = teacher_forced(adapter, inputs, rows)
            assert forced.shape[:2] == (len(rows), 29)
            rounding = 1e-3 if "linear" in adapter.kinds else 1e-4  # linear attention sums up in another order
            torch.testing.assert_close(forced, step_by_step(adapter, inputs, rows), atol=rounding, rtol=0)
            assert (forced[:, 1:] - forced[:, :-1]).abs().amax(dim=2).min() > 0.1


def test_an_extended_batch_holds_the_prompt_and_then_the_answer(adapter, wide, tall):
    inputs = adapter.inputs(pair(wide, tall))
    answer = torch.tensor([[70, 71, 72], [73, 74, 75]])
    extended = adapter.append_answer(inputs, answer)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(extended["input_ids"][:, length:], answer)
    assert extended["attention_mask"][:, length:].all()
    for key in inputs:
        held = extended[key][:, :length] if key in PER_POSITION else extended[key]
        assert torch.equal(held, inputs[key])
        assert key not in PER_POSITION or extended[key].shape[1] == length + 3


def test_a_placeholder_in_an_answer_holds_no_picture(adapter, wide):
    inputs = adapter.inputs([Request(SHORT, (wide,))])
    extended = adapter.append_answer(inputs, torch.tensor([[70, adapter.image_token_id, 71]]))
    assert adapter.placeholders(extended["input_ids"]).sum() == adapter.placeholders(inputs["input_ids"]).sum()
    assert logits(adapter, extended).isfinite().all()
