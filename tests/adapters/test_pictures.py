"""Batches with other pictures: crops, mirror images and the like, read by the family's own processor."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageOps

from mmhall.adapters._base import Batch, Request
from mmhall.errors import ImageError, ModelError
from tests.adapters.conftest import noise
from tests.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHORT, LONG = "Why?", "What is it that we see on the left?"
SEVERAL = [name for name in ZOO if name not in ("blip_2", "instructblip")]
BOXES = {(0, 0): (10, 4, 90, 60), (1, 0): (0, 20, 40, 72), (1, 1): (30, 0, 90, 40)}
"""What each picture of each request is cut to: left, top, right, bottom."""


def same(one, other):
    """Whether two batches hold the same tensors, together and of each request."""

    def equal(ours, theirs):
        return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)

    return equal(one, other) and all(map(equal, one.singles, other.singles))


def unchanged(picture, request, number):
    return picture


def cut(picture, request, number):
    return picture.crop(BOXES[request, number])


def cropped(requests):
    return [
        Request(one.prompt, tuple(cut(picture, index, number) for number, picture in enumerate(one.images)))
        for index, one in enumerate(requests)
    ]


def test_pictures_left_alone_are_read_as_they_were_to_the_last_bit(adapter, wide, tall):
    inputs = adapter.inputs([Request(SHORT, (wide,)), Request(LONG, (tall,))])
    again = adapter.with_pictures(inputs, unchanged)
    assert again is not inputs
    assert same(again, inputs)
    assert again.requests == inputs.requests


@pytest.mark.contract
def test_each_request_gets_its_own_crop_and_is_read_as_if_asked_about_it(adapter, wide, tall):
    requests = [Request(SHORT, (wide,)), Request(LONG, (tall,))]
    inputs = adapter.inputs(requests)
    before = {key: value.clone() for key, value in inputs.items()}
    crops = adapter.with_pictures(inputs, cut)
    assert same(crops, adapter.inputs(cropped(requests)))
    assert not torch.equal(crops["pixel_values"], inputs["pixel_values"])
    assert all(torch.equal(before[key], inputs[key]) for key in before)
    assert [one.images[0].size for one in crops.requests] == [(80, 56), (40, 52)]


@pytest.mark.parametrize("name", SEVERAL)
def test_each_of_several_pictures_is_changed_by_itself(adapter, wide, tall):
    requests = [Request(SHORT, (wide,)), Request(LONG, (tall, wide))]
    assert same(adapter.with_pictures(adapter.inputs(requests), cut), adapter.inputs(cropped(requests)))


def test_the_pictures_of_a_batch_change_as_those_of_its_requests(adapter, wide, tall):
    requests = [Request(SHORT, (wide,)), Request(LONG, (tall,))]

    def mirrored(picture, request, number):
        return ImageOps.mirror(picture)

    batch = adapter.with_pictures(adapter.inputs(requests), mirrored)
    singles = [adapter.with_pictures(adapter.inputs([request]), mirrored) for request in requests]
    stacked = adapter.stack(singles)
    assert all(torch.equal(batch[key], stacked[key]) for key in stacked)
    with torch.no_grad():
        together = adapter.model(**batch).logits[:, -1]
        alone = torch.cat([adapter.model(**one).logits[:, -1] for one in singles])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "internvl", "gemma4"])
def test_a_picture_of_another_shape_may_take_another_number_of_image_tokens(adapter, wide):
    inputs = adapter.inputs([Request(SHORT, (wide,))])
    crop = adapter.with_pictures(inputs, lambda picture, request, number: picture.crop((0, 0, 32, 32)))
    assert 0 < adapter.image_tokens(crop) != adapter.image_tokens(inputs)
    assert crop["input_ids"].shape != inputs["input_ids"].shape


@pytest.mark.parametrize("name", ["llava"])
def test_a_changed_picture_of_another_mode_is_read_as_rgb(adapter, wide):
    inputs = adapter.inputs([Request(SHORT, (wide,))])
    grey = adapter.with_pictures(inputs, lambda picture, request, number: picture.convert("L"))
    assert same(grey, adapter.inputs([Request(SHORT, (wide.convert("L").convert("RGB"),))]))
    assert grey.requests[0].images[0].mode == "RGB"


@pytest.mark.parametrize("name", ["llava"])
def test_a_change_may_draw_on_what_it_gets_and_the_request_keeps_its_picture(adapter, wide):
    inputs, before = adapter.inputs([Request(SHORT, (wide,))]), wide.tobytes()

    def painted(picture, request, number):
        picture.paste("black", (0, 0, 48, 64))
        return picture

    other = adapter.with_pictures(inputs, painted)
    assert other.requests[0].images[0].tobytes() != before
    assert wide.tobytes() == before


@pytest.mark.parametrize("name", ["llava"])
def test_prompts_without_pictures_stay_as_they_are(adapter):
    inputs = adapter.inputs([Request(SHORT), Request(LONG)])
    assert same(adapter.with_pictures(inputs, cut), inputs)


@pytest.mark.parametrize("name", ["llava"])
@pytest.mark.parametrize("returned", [None, "crop.png", torch.zeros(3, 4, 4)], ids=["None", "path", "tensor"])
def test_a_change_that_returns_no_picture_is_refused(adapter, wide, returned):
    inputs = adapter.inputs([Request(SHORT, (wide,))])
    with pytest.raises(ImageError, match=f"must return a PIL image, got {type(returned).__name__} for picture 1 of"):
        adapter.with_pictures(inputs, lambda picture, request, number: returned)


@pytest.mark.parametrize("name", ["llava"])
def test_inputs_that_hold_no_pictures_are_refused(adapter, wide):
    inputs = adapter.inputs([Request(SHORT, (wide,)), Request(LONG, (noise(30, 30),))])
    with pytest.raises(ModelError, match="tensors from another processor, without pictures to change"):
        adapter.with_pictures(dict(inputs), cut)
    with pytest.raises(ModelError, match="pictures were taken out of these inputs"):
        adapter.with_pictures(adapter.without_image(inputs), cut)
    assert isinstance(adapter.with_pictures(inputs, lambda picture, *_: Image.new("RGB", (9, 9))), Batch)
