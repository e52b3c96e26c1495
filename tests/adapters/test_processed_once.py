"""A picture of several requests is processed once, and every input stays as it was."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mmhall.adapters import Request, adapter_for
from mmhall.adapters._processed import ProcessedPictures, looks_up_pictures, process_once
from mmhall.errors import ImageError
from tests.adapters.conftest import noise
from tests.zoo import built

PROMPTS = ("Why?", "What is it that we see on the left?", "Who is there?")
COPIES = ("idefics2",)
"""Their processor copies each picture before it is processed, so that it is processed for each prompt."""


def count_calls(monkeypatch: pytest.MonkeyPatch, image_processor: Any) -> list[Any]:
    """Return a list that gets the pictures of each call of an image processor."""
    kind, calls = type(image_processor), list[Any]()
    preprocess: Callable[..., Any] = kind.preprocess

    def counted(self, images, *args, **options):
        calls.append(images)
        return preprocess(self, images, *args, **options)

    monkeypatch.setattr(kind, "preprocess", counted)
    return calls


@pytest.mark.contract
def test_questions_about_a_picture_process_it_once_and_read_what_each_alone_reads(
    name, adapter, wide, tall, monkeypatch
):
    requests = [Request(prompt, (picture,)) for picture in (wide, tall, wide) for prompt in PROMPTS]
    alone = [adapter.inputs([request]) for request in requests]
    calls = count_calls(monkeypatch, adapter.processor.image_processor)
    together = adapter.inputs(requests)
    assert len(calls) == (9 if name in COPIES else 2)
    for single, want in zip(together.singles, alone, strict=True):
        assert single.keys() == want.keys()
        for key in want:
            assert torch.equal(single[key], want[key]), key
    calls.clear()
    adapter.inputs(requests[:2])
    assert len(calls) == (2 if name in COPIES else 1)  # the next batch processes its pictures anew


@pytest.mark.contract
def test_pictures_of_a_prompt_are_those_of_the_same_prompt_alone(adapter, wide, tall):
    if adapter.most_images == 1:
        pytest.skip("reads one picture a prompt")
    requests = [Request("Why?", pictures) for pictures in ((wide, tall), (tall, wide), (wide,), (wide, tall))]
    for single, request in zip(adapter.inputs(requests).singles, requests, strict=True):
        alone = adapter.inputs([request])
        assert all(torch.equal(single[key], alone[key]) for key in alone)


def test_equal_pictures_that_are_two_objects_are_processed_twice(llava, monkeypatch):
    calls = count_calls(monkeypatch, llava.processor.image_processor)
    llava.adapter.inputs([Request("Why?", (noise(40, 40),)), Request("Why?", (noise(40, 40),))])
    assert len(calls) == 2


def test_a_picture_that_ends_is_forgotten(llava, monkeypatch):
    kept, picture = ProcessedPictures(), noise(40, 40)
    with process_once(kept):
        llava.adapter.inputs([Request("Why?", (picture,))])
        llava.adapter.inputs([Request("Who?", (picture,))])
    assert len(kept) == 1
    del picture
    gc.collect()
    assert len(kept) == 0


def test_other_options_and_other_processors_process_anew(llava, monkeypatch):
    picture, kept = noise(40, 40), ProcessedPictures()
    one, other = llava.processor.image_processor, built("llava")[1].image_processor
    calls = count_calls(monkeypatch, one)
    results = [kept.process(*pair) for pair in ((one, picture), (other, picture), (one, [[picture]]))]
    results.append(kept.process(one, picture, do_normalize=False))
    assert len(calls) == len(kept) == 4
    again = kept.process(one, picture, do_normalize=False)
    assert len(calls) == 4
    assert again is not results[-1]
    assert again["pixel_values"] is results[-1]["pixel_values"]


@pytest.mark.parametrize("name", ["qwen2_5_vl"])
def test_the_processor_is_as_before_also_after_an_error(adapter, wide):
    processor = adapter.processor
    before = dict(vars(processor)), dict(vars(processor.image_processor))
    with pytest.raises(ImageError):
        adapter.inputs([Request("Why?", (wide,)), Request("Why?", (noise(800, 2),))])
    assert (dict(vars(processor)), dict(vars(processor.image_processor))) == before
    assert looks_up_pictures(processor) is processor  # outside the context


def test_an_image_processor_of_other_code_may_draw_random_numbers_and_runs_each_time(random_llava, processor, wide):
    kind = type(processor.image_processor)

    class Jittering(kind):
        def preprocess(self, images, *args, **options):
            read = super().preprocess(images, *args, **options)
            read["pixel_values"] = read["pixel_values"] + torch.rand(1)
            return read

    jittered, plain = Jittering(**processor.image_processor.to_dict()), processor.image_processor
    processor.image_processor = jittered
    adapter = adapter_for(random_llava, processor)
    try:
        first, second = adapter.inputs([Request("Why?", (wide,))] * 2).singles
        assert not torch.equal(first["pixel_values"], second["pixel_values"])
    finally:
        adapter.close()
        processor.image_processor = plain


@pytest.mark.contract
def test_an_adapter_for_another_thread_reads_the_same_with_tokenizers_of_its_own(adapter, wide):
    """A call that splits special tokens leaves the tokenizer so; a call of the other thread would read them so."""
    reader, request = adapter.for_thread(), Request("Why?", (wide,))
    adapter.tokenizer("x", split_special_tokens=True)
    assert adapter.tokenizer.backend_tokenizer.encode_special_tokens
    assert not reader.tokenizer.backend_tokenizer.encode_special_tokens
    assert reader.tokenizer is reader.processor.tokenizer
    assert reader.processor.image_processor is adapter.processor.image_processor
    read, wanted = reader.inputs([request]), adapter.inputs([request])
    assert read.keys() == wanted.keys()
    assert all(torch.equal(read[key], wanted[key]) for key in wanted)


@pytest.mark.slow
def test_a_store_goes_with_its_context_while_its_pictures_stay(adapter, wide):
    """Pixels must not wait until Python collects cycles."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            adapter.inputs([Request("Why?", (wide,))])
        assert not [each for each in gc.get_objects() if type(each) is ProcessedPictures]
    finally:
        gc.enable()
