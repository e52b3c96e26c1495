"""Similarity of texts: overlap of words by hand, tiny models against their own outputs, and refusals in words."""

from __future__ import annotations

import pytest
import torch
import transformers

from mmhall.errors import GenerationError, ModelError
from mmhall.similarity import is_similarity_name, load_similarity
from tests.zoo.common import make_tokenizer

PAIRS = [("a red dog", "the dog runs"), ("a cat", "a cat"), ("a cat sits on a long mat", "dogs")]


def make_bert(folder, kind="BertModel", **options):
    tokenizer = make_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, kind)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_overlap_of_content_words_by_hand():
    """dog of red, dog, runs; the same; and two texts without any content word."""
    found = load_similarity("jaccard").compare([PAIRS[0], PAIRS[1], ("of the", "to a"), ("a", "dog")])
    assert found == pytest.approx([1 / 3, 1, 1, 0])


def test_an_encoder_compares_means_over_tokens(tmp_path):
    """In a batch as alone: padding does not count."""
    name = make_bert(tmp_path / "bert")
    similarity = load_similarity(name)
    model, tokenizer = similarity.model, similarity.tokenizer
    with torch.no_grad():
        means = {
            text: model(**tokenizer([text], return_tensors="pt")).last_hidden_state[0].mean(dim=0)
            for pair in PAIRS
            for text in pair
        }
    wanted = [float(torch.cosine_similarity(means[one], means[other], dim=0).clamp_min(0)) for one, other in PAIRS]
    assert similarity.compare(PAIRS) == pytest.approx(wanted, abs=1e-4)
    assert similarity.compare([]) == []
    assert len({round(value, 3) for value in wanted}) == 3
    with pytest.raises(GenerationError, match="reads at most 64 tokens, and texts to compare have 70"):
        similarity.compare([("x" * 70, "x")])


def test_a_cross_encoder_reads_both(tmp_path):
    similarity = load_similarity(make_bert(tmp_path / "cross", "BertForSequenceClassification", num_labels=1))
    model, tokenizer = similarity.model, similarity.tokenizer
    with torch.no_grad():
        wanted = [float(model(**tokenizer([a], [b], return_tensors="pt")).logits[0, 0].sigmoid()) for a, b in PAIRS]
    assert similarity.compare(PAIRS) == pytest.approx(wanted, abs=1e-4)


def test_what_is_refused(tmp_path):
    classes = make_bert(tmp_path / "nli", "BertForSequenceClassification", num_labels=3)
    with pytest.raises(ModelError, match="a classifier of 3 classes, which gives no similarity"):
        load_similarity(classes)
    with pytest.raises(ModelError, match="'minilm' names no similarity of texts; give the folder"):
        load_similarity("minilm")
    (tmp_path / "nli" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"empty: holds no \*.safetensors weights"):
        load_similarity(make_empty(tmp_path / "nli"))
    assert is_similarity_name("jaccard")
    assert not is_similarity_name("states")


def make_empty(folder):
    """A folder of another name, which no earlier load has cached."""
    return str(folder.rename(folder.with_name("empty")))
