"""The user's own words among the tokens of a prompt, in every family."""

from __future__ import annotations

import pytest
import torch

from mmhall.adapters._base import Request
from mmhall.adapters._prompts import find_words
from tests.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = (
    "Is there a dog?",
    "A",  # of ASSISTANT
    "a",  # of assistant
    "x",  # what prompts are compared with
    "1",
    "x1",
    "USER",
    "user: assistant",
    "ASSISTANT:",
    "Assistant:",
    "Où est le 木 naïf ? 🐈",
    "Is it\na cat,\n\nor two?",
    "the the the",
)
TYPED = ("What is <s>?", "</s> and <s> are marks", "Is <pad> one, too?", "Not <unk>, then?")


def told(adapter, inputs) -> list[str]:
    """What a mask says was asked, row by row; the marked positions follow each other."""
    rows = []
    for ids, mask in zip(inputs["input_ids"], adapter.query_mask(inputs), strict=True):
        places = mask.nonzero()[:, 0]
        assert places.tolist() == list(range(int(places[0]), int(places[-1]) + 1))
        rows.append(adapter.tokenizer.decode(ids[places]))
    return rows


def behind_the_picture(adapter, inputs) -> None:
    marked, image = adapter.query_mask(inputs), adapter.placeholders(inputs["input_ids"])
    for query, picture in zip(marked, image, strict=True):
        assert query.nonzero().min() > picture.nonzero().max()
    assert not (marked & ~inputs["attention_mask"].bool()).any()


@pytest.mark.contract
def test_a_prompt_is_found(adapter, wide):
    """One equal to part of the template is in its own place: as far from the end as any."""
    ends = set()
    for prompt in PROMPTS:
        inputs = adapter.inputs([Request(prompt, (wide,))])
        assert told(adapter, inputs) == [prompt]
        behind_the_picture(adapter, inputs)
        ends.add(int(inputs["input_ids"].shape[1] - adapter.query_mask(inputs)[0].nonzero().max()))
    assert len(ends) == 1


def test_space_around_a_prompt_may_count_or_not(adapter, wide):
    for prompt in "  What is it?", "What is it? ", "\nWhat is it?\n\n":
        (found,) = told(adapter, adapter.inputs([Request(prompt, (wide,))]))
        assert found.strip() == "What is it?"


def test_special_tokens_that_were_typed_are_words(adapter, wide):
    mark = adapter.tokenizer.convert_ids_to_tokens(adapter.image_token_id)
    for prompt in (*TYPED, f"Is {mark} in it, or {adapter.tokenizer.eos_token}?"):
        assert told(adapter, adapter.inputs([Request(prompt, (wide,))])) == [prompt]


def test_a_batch_with_padding_marks_what_its_prompts_mark(adapter, wide, tall):
    requests = [Request("Is there a dog?", (wide,)), Request("A", (tall,)), Request("What is <s> here? " * 3, (tall,))]
    requests[2] = Request(requests[2].prompt.strip(), (tall,))
    inputs = adapter.inputs(requests)
    assert not inputs["attention_mask"].all()
    assert told(adapter, inputs) == [request.prompt for request in requests]
    behind_the_picture(adapter, inputs)


@pytest.mark.parametrize("name", [name for name in ZOO if "blip" not in name])
def test_behind_several_pictures(adapter, wide, tall):
    requests = [
        Request("What has changed?", (wide, tall)),
        Request("a", (tall, wide, wide)),
        Request("And now?", (wide,)),
    ]
    inputs = adapter.inputs(requests)
    assert told(adapter, inputs) == [request.prompt for request in requests]
    behind_the_picture(adapter, inputs)


def test_without_a_picture(adapter):
    requests = [Request("Is there a dog?"), Request("a")]
    assert told(adapter, adapter.inputs(requests)) == [request.prompt for request in requests]


def test_inputs_that_somebody_elses_processor_made(adapter, wide, tall):
    """Without their requests, what follows the last picture counts, special tokens aside."""
    requests = [Request("Is there a dog?", (wide,)), Request("And a cat, there on the left?", (tall,))]
    inputs = dict(adapter.inputs(requests))
    mask = adapter.query_mask(inputs)
    image = adapter.image_mask(inputs["input_ids"])
    special = torch.isin(inputs["input_ids"], torch.tensor(list(adapter.tokenizer.added_tokens_decoder)))
    for row, own, marks in zip(mask, image, special, strict=True):
        if not own.any():
            assert not row.any()
            continue
        last = int(own.nonzero().max())
        assert not row[: last + 1].any()
        assert torch.equal(row[last + 1 :], ~marks[last + 1 :])
    if image.any():
        for request, ids, row in zip(requests, inputs["input_ids"], mask, strict=True):
            assert request.prompt in adapter.tokenizer.decode(ids[row])


def test_inputs_that_are_padded_on_the_right(adapter, wide, tall):
    requests = [Request("Is there a dog?", (wide,)), Request("And a cat, there on the left?", (tall,))]
    left = dict(adapter.inputs(requests))
    shifts = (left["attention_mask"] == 0).sum(dim=1).tolist()
    right = {
        key: torch.stack([row.roll(-shift, 0) for row, shift in zip(left[key], shifts, strict=True)])
        for key in ("input_ids", "attention_mask")
    }
    wanted = torch.stack([row.roll(-shift) for row, shift in zip(adapter.query_mask(left), shifts, strict=True)])
    assert torch.equal(adapter.query_mask(right), wanted)


@pytest.mark.parametrize(
    ("own", "others", "read", "wanted"),
    [
        ([1, 5, 6, 2], [[1, 7, 2], [1, 8, 2]], [1, 9, 9, 5, 6, 2], (-3, -1)),
        ([1, 5, 2, 5], [[1, 7, 2, 5], [1, 8, 2, 5]], [1, 5, 2, 5], (-3, -2)),  # 5 also ends the template
        ([1, 2, 2], [[1, 7, 2], [1, 8, 2]], [1, 2, 2], (-2, -1)),
        ([1, 5], [[1, 7], [1, 8]], [1, 5, 3], (-2, -1)),  # the processor adds something behind
        ([1, 7, 2], [[1, 7, 2], [1, 8, 2]], [1, 7, 2], (-2, -1)),  # it is what prompts are compared with
        ([1, 5, 2], [[1, 7, 2], [1, 8, 2]], [1, 6, 2], (0, 0)),  # the processor rewrites it
        ([1, 5, 5, 2], [[1, 7, 2], [1, 8, 2]], [1, 5, 5, 2], (-3, -1)),
    ],
)
def test_words_are_found_where_the_template_has_them(own, others, read, wanted):
    assert find_words(own, others, read) == range(*wanted)


def test_a_tokenizer_of_whole_words(embedded, pictures):
    adapter = embedded.adapter
    prompt = "Is there a dog in the image?"
    inputs = adapter.inputs([Request(prompt, (pictures[0],))])
    own = adapter.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert inputs["input_ids"][adapter.query_mask(inputs)].tolist() == own
