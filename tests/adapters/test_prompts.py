"""Hand-made cases of prompts that contain what looks like special tokens."""

from __future__ import annotations

import pytest
import torch

from mmhall.adapters._prompts import MarkedTexts, mark_frames
from mmhall.errors import PromptError
from mmhall.words import special_tokens
from tests.zoo.common import make_tokenizer

PER_POSITION = ("input_ids", "attention_mask")


@pytest.fixture(scope="module")
def tokenizer():
    """One token a byte; <pad> is 0, <s> 1, </s> 2, <unk> 3, <image> 4, <end> 5, <end_of_turn> 6, [X] 7."""
    return make_tokenizer(["<image>", "<end>", "<end_of_turn>", "[X]"])


def read(tokenizer, text, **more):
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}


def spelled(tokenizer, marked, text=None, **more):
    return marked.restore(read(tokenizer, text or marked.texts[0], **more), PER_POSITION, tokenizer)


def test_special_tokens_are_the_added_ones_marked_special(tokenizer):
    names = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<end>", "<end_of_turn>", "[X]")
    assert special_tokens(tokenizer) == {name: index for index, name in enumerate(names)}


def test_a_prompt_without_special_tokens_stays_as_it_is(tokenizer):
    marked = MarkedTexts.of(["Is a < b, and <imag> too?"], tokenizer)
    assert marked == MarkedTexts(("Is a < b, and <imag> too?",), (), None)
    held = read(tokenizer, marked.texts[0])
    assert marked.restore(held, PER_POSITION, tokenizer) == held


def test_typed_tokens_are_remembered_in_order(tokenizer):
    marked = MarkedTexts.of(["<end> is not </s>, nor <end>."], tokenizer)
    assert marked == MarkedTexts(("<pad> is not <pad>, nor <pad>.",), ("<end>", "</s>", "<end>"), "<pad>")


def test_a_token_whose_name_begins_another_is_told_apart(tokenizer):
    tokenizer = make_tokenizer(["TILE", *(f"TILE_{number}" for number in range(12))])
    prompt = " ".join(["TILE", *(f"TILE_{number}" for number in range(12)), "TILES"])
    marked = MarkedTexts.of([prompt], tokenizer)
    assert marked.typed == (*prompt.split()[:-1], "TILE")
    assert marked.texts[0] == "<pad> " * 13 + "<pad>S"
    assert tokenizer.decode(spelled(tokenizer, marked)["input_ids"][0]) == prompt


def test_names_with_signs_of_regular_expressions_are_taken_literally(tokenizer):
    assert MarkedTexts.of(["X or [X] or ."], tokenizer).typed == ("[X]",)


def test_the_other_plain_token_marks_where_one_is_typed(tokenizer):
    assert MarkedTexts.of(["<pad> and </s>"], tokenizer) == MarkedTexts(
        ("<unk> and <unk>",), ("<pad>", "</s>"), "<unk>"
    )
    assert MarkedTexts.of(["<unk> and </s>"], tokenizer) == MarkedTexts(
        ("<pad> and <pad>",), ("<unk>", "</s>"), "<pad>"
    )


def test_a_prompt_that_types_both_plain_tokens_is_refused(tokenizer):
    with pytest.raises(PromptError, match="the prompt contains '<unk>', which is a special token of this model"):
        MarkedTexts.of(["<unk> and <pad>"], tokenizer)


def test_a_tokenizer_without_plain_tokens_refuses_typed_ones():
    tokenizer = make_tokenizer(["<image>"])
    tokenizer.pad_token, tokenizer.unk_token = None, None
    assert MarkedTexts.of(["Hi"], tokenizer).marker is None
    with pytest.raises(PromptError, match="'<image>'"):
        MarkedTexts.of(["What is <image>?"], tokenizer)


@pytest.mark.parametrize("prompt", ["<image>", "a <image>", "<image> b", "<image><end_of_turn> c </s>", "é <s> 木"])
def test_spelled_out_text_is_what_was_typed_and_no_special_token(tokenizer, prompt):
    marked = MarkedTexts.of([prompt], tokenizer)
    grown = spelled(tokenizer, marked, f"<s>{marked.texts[0]}</s>")
    ids = grown["input_ids"][0].tolist()
    assert (ids[0], ids[-1]) == (1, 2)
    assert min(ids[1:-1]) > 7
    assert tokenizer.decode(ids[1:-1]) == prompt
    assert grown["attention_mask"].tolist() == [[1] * len(ids)]


def test_a_token_typed_often_is_spelled_once(tokenizer):
    """A prompt of a megabyte of them would otherwise take half a minute."""
    marked, asked = MarkedTexts.of(["<s> </s> " * 50], tokenizer), []
    held = read(tokenizer, marked.texts[0])

    class Counting:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, text, **how):
            asked.append(text)
            return tokenizer(text, **how)

    grown = marked.restore(held, ("input_ids", "attention_mask"), Counting())
    assert sorted(asked) == ["</s>", "<s>"]
    assert tokenizer.decode(grown["input_ids"][0]) == "<s> </s> " * 50


def test_what_holds_a_value_a_position_grows_with_the_text_and_nothing_else_does(tokenizer):
    marked = MarkedTexts.of(["ab<s>c"], tokenizer)
    types, crossed = torch.tensor([[5, 6, 7, 8]]), torch.arange(8).view(1, 4, 1, 2)
    held = read(tokenizer, marked.texts[0], types=types, cross=crossed, pixel_values=torch.ones(1, 3, 2, 2))
    grown = marked.restore(held, ("input_ids", "attention_mask", "types", "cross"), tokenizer)
    assert grown["types"].tolist() == [[5, 6, 7, 7, 7, 8]]
    assert grown["cross"][0, :, 0].tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5], [6, 7]]
    assert grown["pixel_values"] is held["pixel_values"]
    assert grown["input_ids"].dtype == held["input_ids"].dtype
    assert held["input_ids"].shape == (1, 4)


@pytest.mark.parametrize("text", ["What is it?", "<pad> and <pad>?"])
def test_a_reading_that_lost_or_gained_a_marker_is_refused(tokenizer, text):
    marked = MarkedTexts.of(["What is <image>?"], tokenizer)
    with pytest.raises(PromptError, match="'<image>'"):
        spelled(tokenizer, marked, text)


def test_white_space_between_placeholders_goes_with_them(tokenizer):
    ids = read(tokenizer, "a<image> \n<image> b<image>")["input_ids"]
    assert tokenizer.decode(ids[0][~mark_frames(ids, ids == 4, tokenizer)[0]]) == "a b"
