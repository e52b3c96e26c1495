"""Requests become batches: padding, image positions, typed special tokens, and what is refused."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from mmhall.adapters._base import PER_POSITION, Request
from mmhall.errors import ImageError, PromptError
from mmhall.lvlm import LVLM
from mmhall.words import special_tokens
from tests.adapters.conftest import noise
from tests.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHORT, LONG = "Why?", "What is it that we see on the left?"
ONE_PICTURE = ("blip_2", "instructblip")
SEVERAL = [name for name in ZOO if name not in ONE_PICTURE]
TOO_NARROW = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "mistral3")
"""They refuse a picture 400 times as long as it is wide; the others answer."""


def logits(adapter, inputs):
    with torch.no_grad():
        return adapter.model(**inputs).logits[:, -1]


def specials(adapter, row):
    """Count the special tokens of a row, padding left out."""
    known = set(special_tokens(adapter.tokenizer).values()) - {adapter.tokenizer.pad_token_id}
    return Counter(token for token in row.tolist() if token in known)


@pytest.mark.contract
def test_a_batch_is_padded_on_the_left(adapter, wide, tall):
    requests = [Request(SHORT, (wide,)), Request(LONG, (tall,)), Request(LONG * 3, (wide,))]
    batch = adapter.inputs(requests)
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) == 3
    for index, request in enumerate(requests):
        ids, mask = batch["input_ids"][index], batch["attention_mask"][index]
        single = adapter.inputs([request])
        assert mask.tolist() == sorted(mask.tolist())
        assert set(ids[mask == 0].tolist()) <= {adapter.tokenizer.pad_token_id}
        for key in single.keys() & set(PER_POSITION):
            held = batch[key][index][mask == 1]
            assert torch.equal(held[:, : single[key].shape[2]] if held.ndim == 3 else held, single[key][0])


@pytest.mark.contract
def test_each_request_of_a_batch_is_answered_as_alone_and_as_transformers_answers(lvlm, wide, tall):
    adapter, requests = lvlm.adapter, [Request(SHORT, (wide,)), Request(LONG, (tall,))]
    inputs, singles = adapter.inputs(requests), [adapter.inputs([request]) for request in requests]
    alone = torch.cat([logits(adapter, single) for single in singles])
    torch.testing.assert_close(logits(adapter, inputs), alone, atol=1e-4, rtol=0)
    together = lvlm.generate_batch([(one.images[0], one.prompt) for one in requests], max_new_tokens=4)
    for request, single, answer in zip(requests, singles, together, strict=True):
        assert lvlm.generate(request.images[0], request.prompt, max_new_tokens=4).token_ids == answer.token_ids
        own = adapter.model_for(single).generate(**single, max_new_tokens=4, do_sample=False)
        said = own[0, single["input_ids"].shape[1] :].tolist()
        assert tuple(said[: len(answer.token_ids)]) == answer.token_ids
        assert answer.token_ids


# Mllama's rows before the picture see all image columns, also those that pad a request with fewer pictures
@pytest.mark.parametrize("name", [name for name in SEVERAL if name != "mllama"])
def test_a_batch_may_hold_different_numbers_of_pictures(adapter, wide, tall):
    requests = [Request(SHORT, (tall, noise(120, 30))), Request(LONG, (wide,))]
    alone = torch.cat([logits(adapter, adapter.inputs([request])) for request in requests])
    torch.testing.assert_close(logits(adapter, adapter.inputs(requests)), alone, atol=1e-4, rtol=0)


@pytest.mark.contract
@pytest.mark.parametrize("name", [name for name in ZOO if name != "mllama"])
def test_image_positions_are_those_the_picture_fills(name, adapter, wide, tall):
    """Only at image positions does the decoder read something else when the pictures change."""
    read = []
    hook = adapter.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    for first, second in ((wide, tall), (noise(96, 64, seed=2), noise(40, 72, seed=3))):
        inputs = adapter.inputs([Request(SHORT, (first,)), Request(LONG, (second,))])
        logits(adapter, inputs)
    hook.remove()
    changed, marked = (read[0] != read[1]).any(dim=2), adapter.image_mask(inputs["input_ids"])
    assert changed.any(dim=1).all()
    if name in ("llava_next", "llava_onevision"):  # line breaks between rows of patches are image tokens as well
        assert not (changed & ~marked).any()
        assert (marked & ~changed)[0].sum() == (6 if name == "llava_next" else 7)
    else:
        assert torch.equal(changed, marked)
    assert adapter.image_tokens(adapter.inputs([Request(SHORT, (wide,))])) == marked[0].sum()


@pytest.mark.parametrize("name", ["mllama"])
def test_a_picture_outside_the_sequence_marks_no_position(adapter, wide):
    inputs = adapter.inputs([Request(SHORT, (wide,))])
    assert not adapter.image_mask(inputs["input_ids"]).any()
    assert adapter.placeholders(inputs["input_ids"]).sum() == 1
    assert adapter.image_tokens(inputs) == 4 * 17


@pytest.mark.parametrize("name", SEVERAL)
def test_a_prompt_may_hold_several_pictures_in_order(name, adapter, wide, tall):
    both, swapped = (adapter.inputs([Request(SHORT, pair)]) for pair in ((wide, tall), (tall, wide)))
    if name != "llava_onevision":  # several pictures are not tiled there
        alone = [adapter.image_tokens(adapter.inputs([Request(SHORT, (picture,))])) for picture in (wide, tall)]
        assert adapter.image_tokens(both) == sum(alone)
    if name != "mllama":  # attention across the pictures knows no order
        assert (logits(adapter, both) - logits(adapter, swapped)).abs().max() > 0.01


@pytest.mark.parametrize("name", ONE_PICTURE)
def test_a_family_of_one_picture_refuses_two(adapter, wide, tall):
    with pytest.raises(ImageError, match="at most 1 picture a prompt, got 2"):
        adapter.inputs([Request(SHORT, (wide, tall))])


@pytest.mark.contract
def test_a_prompt_needs_no_picture(adapter):
    inputs = adapter.inputs([Request(SHORT), Request(LONG)])
    assert inputs.keys() <= set(PER_POSITION)
    assert not adapter.placeholders(inputs["input_ids"]).any()
    assert adapter.image_tokens(adapter.inputs([Request(SHORT)])) == 0
    written = adapter.model_for(inputs).generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert written.shape == (2, inputs["input_ids"].shape[1] + 2)


def test_a_batch_with_and_without_pictures_is_refused(adapter, wide):
    with pytest.raises(PromptError, match="mixes prompts with and without a picture"):
        adapter.inputs([Request(SHORT, (wide,)), Request(SHORT)])


def test_an_empty_prompt_is_refused(adapter, wide):
    for prompt, images in product(("", " \n\t"), ((), (wide,))):
        with pytest.raises(PromptError, match="prompt is empty"):
            adapter.inputs([Request(prompt, images)])


def test_a_prompt_longer_than_the_context_is_refused(adapter, wide):
    for images in ((), (wide,)):
        fits = adapter.context_length - adapter.inputs([Request("x", images)])["input_ids"].shape[1]
        assert adapter.inputs([Request("x" * fits, images)])["input_ids"].shape[1] == adapter.context_length - 1
        with pytest.raises(PromptError, match=f"prompt has {adapter.context_length} tokens"):
            adapter.inputs([Request("x" * (fits + 1), images)])


def typed_prompts(adapter):
    """A question about two special tokens, and one that types all but the two that may mark typed text."""
    placeholder = adapter.tokenizer.convert_ids_to_tokens(adapter.image_token_id)
    rest = [token for token in special_tokens(adapter.tokenizer) if token not in ("<pad>", "<unk>")]
    return f"What does {placeholder} mean, and </s>?", "".join(rest) + "?", "What is <pad>?"


@pytest.mark.contract
def test_special_tokens_typed_in_a_prompt_stay_text(adapter, wide):
    plain = adapter.inputs([Request("Hi", (wide,))])
    for prompt in typed_prompts(adapter):
        inputs = adapter.inputs([Request(prompt, (wide,))])
        ids = inputs["input_ids"][0]
        assert prompt in adapter.tokenizer.decode(ids)
        assert specials(adapter, ids) == specials(adapter, plain["input_ids"][0])
        assert {inputs[key].shape[1] for key in inputs.keys() & set(PER_POSITION)} == {len(ids)}
        assert inputs["attention_mask"].all()
        for key in inputs.keys() & {"token_type_ids", "mm_token_type_ids"}:
            assert inputs[key].sum() == plain[key].sum()
        assert adapter.image_tokens(inputs) == adapter.image_tokens(plain)
        assert logits(adapter, inputs).isfinite().all()


def test_special_tokens_typed_in_a_prompt_without_picture_stay_text(adapter, wide):
    for prompt in typed_prompts(adapter):
        ids = adapter.inputs([Request(prompt)])["input_ids"][0]
        assert prompt in adapter.tokenizer.decode(ids)
        assert specials(adapter, ids) == specials(adapter, adapter.inputs([Request("Hi")])["input_ids"][0])
        kept = adapter.without_image(adapter.inputs([Request(prompt, (wide,))]))["input_ids"][0]
        assert prompt in adapter.tokenizer.decode(kept)


@pytest.mark.parametrize("name", ["instructblip"])
def test_the_q_former_reads_typed_special_tokens_as_text_too(adapter, wide):
    read = adapter.inputs([Request("What does </s> mean?", (wide,))])["qformer_input_ids"][0]
    assert "What does </s> mean?" in adapter.processor.qformer_tokenizer.decode(read)
    assert not specials(adapter, read)


def test_a_prompt_that_types_every_possible_marker_is_refused(adapter, wide):
    for images in ((), (wide,)):
        with pytest.raises(PromptError, match="contains '<pad>', which is a special token of this model"):
            adapter.inputs([Request("What are <pad> and <unk>?", images)])


@pytest.mark.parametrize("name", [name for name in ZOO if name != "paligemma"])  # its processor turns this off
def test_a_prompt_starts_with_one_start_token_whoever_writes_it(name, wide):
    """Here the tokenizer adds a start token by itself, as those of many models do; some templates write one, too."""
    model, processor = ZOO[name]()
    processor.tokenizer.add_bos_token = True
    start = processor.tokenizer.bos_token_id
    with LVLM(model, processor) as lvlm:
        for prompt in ("Hi", "What is <s>?"):
            for images in ((), (wide,)):
                ids = lvlm.adapter.inputs([Request(prompt, images)])["input_ids"][0]
                assert (ids == start).sum() == 1
                before = ids[: int((ids == start).nonzero()[0])]
                assert lvlm.adapter.placeholders(before).all()


def test_pictures_and_placeholders_must_go_together(adapter, wide):
    pictured, bare = adapter.inputs([Request(SHORT, (wide,))]), adapter.inputs([Request(SHORT)])
    adapter.check_placeholders(pictured)
    adapter.check_placeholders(bare)
    with pytest.raises(PromptError, match="has pictures but no placeholders"):
        adapter.check_placeholders({**bare, "pixel_values": pictured["pixel_values"]})
    with pytest.raises(PromptError, match="has placeholders but no pictures"):
        adapter.check_placeholders({"input_ids": pictured["input_ids"]})


def with_transparency():
    picture = noise(40, 30).convert("P")
    picture.info["transparency"] = 0
    return picture


STRANGE = {
    "CMYK": noise(40, 30).convert("CMYK"),
    "palette with transparency": with_transparency(),
    "16 bits": Image.fromarray((np.arange(40 * 30).reshape(30, 40) * 50).astype(np.uint16)),
    "grey with transparency": noise(40, 30).convert("LA"),
    "black and white": noise(40, 30).convert("1"),
}


def test_a_picture_of_any_mode_is_answered(lvlm):
    for picture in STRANGE.values():
        assert lvlm.generate(picture, SHORT, max_new_tokens=1).usage.new_tokens == 1


def test_a_tiny_picture_is_answered_or_refused_as_a_picture(name, lvlm):
    for size in (1, 1), (7, 5), (2, 30):
        if name == "mistral3" and size != (2, 30):  # a single image token: its projector drops the axis of tokens
            with pytest.raises(ImageError):
                lvlm.generate(noise(*size), SHORT, max_new_tokens=1)
        else:
            assert lvlm.generate(noise(*size), SHORT, max_new_tokens=1).usage.new_tokens == 1


@pytest.mark.contract
def test_a_picture_of_extreme_shape_is_answered_or_refused_as_a_picture(name, lvlm):
    for size in (1, 400), (400, 1), (1, 4000):
        if name in TOO_NARROW:
            with pytest.raises(ImageError, match=rf"cannot read the picture \({size[0]} x {size[1]} pixels\)"):
                lvlm.generate(noise(*size), SHORT, max_new_tokens=1)
        else:
            assert lvlm.generate(noise(*size), SHORT, max_new_tokens=1).usage.new_tokens == 1
