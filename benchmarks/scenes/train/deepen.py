"""Growing a trained model: more decoder layers and more words, with the same answers as before.

A new layer is a copy of the one below it whose two output matrices are zero, so that it adds nothing to the
residual stream until it is trained (compare LLaMA Pro, arXiv:2401.02415).
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmhall.benchmarks.scenes.train.architecture import make_model


def deepen(
    model: LlavaForConditionalGeneration,
    old: PreTrainedTokenizerFast,
    new: PreTrainedTokenizerFast,
    layers: int,
    seed: int = 0,
) -> LlavaForConditionalGeneration:
    """Return a float32 copy of a model with more decoder layers and another vocabulary.

    The new layers stand behind the upper ones, one behind each. Scores of the words that
    both vocabularies hold stay the same.

    Args:
        model: The trained model; not changed.
        old: Its tokenizer.
        new: Tokenizer of the new model; words of the old one that it lacks are dropped.
        layers: Number of decoder layers of the new model, at most twice that of the old one.
        seed: Seed of the embeddings of new words.
    """
    grown = make_model(new, seed, layers)
    grown.model.vision_tower.load_state_dict(model.model.vision_tower.state_dict())
    grown.model.multi_modal_projector.load_state_dict(model.model.multi_modal_projector.state_dict())
    theirs, ours = model.model.language_model, grown.model.language_model
    ours.norm.load_state_dict(theirs.norm.state_dict())
    depth, at = len(theirs.layers), 0
    for index, layer in enumerate(theirs.layers):
        ours.layers[at].load_state_dict(layer.state_dict())
        at += 1
        if index >= 2 * depth - layers:
            _load_silent(ours.layers[at], layer)
            at += 1
    _embed_words(ours.embed_tokens, theirs.embed_tokens, old, new)
    return grown


def _load_silent(layer: nn.Module, below: nn.Module) -> None:
    """Load a copy of a layer that changes nothing: its attention and its MLP put out zeros."""
    state = copy.deepcopy(below.state_dict())
    state["self_attn.o_proj.weight"].zero_()
    state["mlp.down_proj.weight"].zero_()
    layer.load_state_dict(state)


@torch.no_grad()
def _embed_words(
    ours: nn.Embedding, theirs: nn.Embedding, old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast
) -> None:
    """Copy the embeddings of known words; give new ones small random values of the usual size."""
    known = old.get_vocab()
    usual = theirs.weight.float().std()
    ours.weight.normal_(0, float(usual), generator=torch.Generator().manual_seed(0))
    for word, index in new.get_vocab().items():
        if word in known:
            ours.weight[index] = theirs.weight[known[word]]
