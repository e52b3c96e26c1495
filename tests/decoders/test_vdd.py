from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters.base import Request
from mmhall.errors import OptionError


def free(llava, picture, kind):
    inputs = llava.adapter.inputs([Request("Is there a dog?", (picture,))])
    session = mmhall.strategy("vdd", free=kind).fitted(llava.adapter).prepare(llava.adapter, inputs)
    return inputs, session.branches


def test_none_is_the_prompt_without_its_picture(llava, pictures):
    _, (branch,) = free(llava, pictures[0], "none")
    wanted = llava.adapter.inputs([Request("Is there a dog?")])
    assert branch["input_ids"].tolist() == wanted["input_ids"].tolist()
    assert "pixel_values" not in branch


def test_unk_puts_one_unknown_token_where_the_picture_was(llava, pictures):
    _, (branch,) = free(llava, pictures[0], "unk")
    ids = branch["input_ids"][0].tolist()
    assert llava.adapter.tokenizer.convert_ids_to_tokens(ids)[:5] == ["<s>", "▁USER", ":", "<unk>", "▁Is"]


def test_both_give_two_branches(llava, pictures):
    assert len(free(llava, pictures[0], "none+unk")[1]) == 2


def test_uneven_prompts_are_padded_on_the_left(llava, pictures):
    inputs = llava.adapter.inputs(
        [Request("Is there a dog?", (pictures[0],)), Request("Describe this image.", (pictures[1],))]
    )
    bare = llava.adapter.without_image(inputs)
    alone = [llava.adapter.inputs([Request(p)])["input_ids"][0] for p in ("Is there a dog?", "Describe this image.")]
    for row, mask, wanted in zip(bare["input_ids"], bare["attention_mask"], alone, strict=True):
        torch.testing.assert_close(row[mask.bool()], wanted)
        assert mask.tolist() == sorted(mask.tolist())


@pytest.mark.parametrize("kind", ["noise", "none+none", ""])
def test_unknown_picture_free_inputs_are_refused(kind):
    with pytest.raises(OptionError, match='vdd: free must be "none", "unk" or "none\\+unk"'):
        mmhall.strategy("vdd", free=kind)
