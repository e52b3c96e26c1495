"""A deepened model answers as before, until it is trained."""

from __future__ import annotations

import pytest
import torch

from mmhall.benchmarks.scenes.train.deepen import deepen


@pytest.fixture(scope="module")
def grown(embedded):
    old = embedded.adapter.tokenizer
    new = type(old).from_pretrained(old.name_or_path, local_files_only=True)
    new.add_tokens(["walrus"])
    return deepen(embedded.adapter.model, old, new, layers=10), new


def test_scores_of_known_words_stay_the_same(embedded, grown):
    model, tokenizer = grown
    ids = tokenizer("USER: Is there a cat in the image? ASSISTANT: Yes, there is a cat", return_tensors="pt").input_ids
    with torch.no_grad():
        before = embedded.adapter.model(input_ids=ids).logits
        after = model.eval()(input_ids=ids).logits
    torch.testing.assert_close(after[..., : before.shape[-1]], before, rtol=0, atol=1e-5)


def test_new_layers_stand_behind_the_upper_ones(embedded, grown):
    silent = [not layer.mlp.down_proj.weight.any() for layer in grown[0].model.language_model.layers]
    assert silent == [False, False, False, True, False, True, False, True, False, True]
    below, copy = grown[0].model.language_model.layers[2:4]
    assert torch.equal(below.self_attn.q_proj.weight, copy.self_attn.q_proj.weight)
    assert not copy.self_attn.o_proj.weight.any()


def test_every_part_learns(grown):
    model, tokenizer = grown
    ids = tokenizer("USER: Is there a walrus in the image?", return_tensors="pt").input_ids
    model(input_ids=ids, labels=ids).loss.backward()
    layer = model.model.language_model.layers[3]
    assert layer.self_attn.o_proj.weight.grad.abs().sum() > 0
    assert layer.mlp.down_proj.weight.grad.abs().sum() > 0
    assert model.get_input_embeddings().weight.grad[tokenizer.convert_tokens_to_ids("walrus")].abs().sum() > 0
