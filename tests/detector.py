"""Tiny random detectors, saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers

from tests.clip import ensure_made
from tests.zoo.common import make_tokenizer

DETECTOR = Path(__file__).parents[1] / "build" / "tests" / "owlv2-3"
"""Where the tests' OWLv2 lies: known before it is there, and to all processes that run tests alike."""


def make_owlv2(folder: Path, *, seed: int = 0) -> Path:
    """Make a detector of nine boxes whose number above 0.5 differs from word to word, and from picture to picture."""
    from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config={**size, **ends, "vocab_size": len(words), "max_position_embeddings": 64},
        vision_config={**size, "image_size": 48, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(seed)
    model = Owlv2ForObjectDetection(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
        model.box_head.dense2.weight.mul_(0.01)  # else boxes lie at the edges
        model.class_head.logit_shift.weight.zero_()  # else words make no difference
    model.save_pretrained(folder)
    pictures = Owlv2ImageProcessor(size={"height": 48, "width": 48})
    Owlv2Processor(pictures, tokenizer).save_pretrained(folder)
    return folder


def make_grounding_dino(folder: Path) -> Path:
    """Make a Grounding DINO with a tiny Swin and a tiny BERT."""
    import transformers

    tokenizer = make_tokenizer()
    config = transformers.GroundingDinoConfig(
        backbone_config={
            "model_type": "swin", "image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 1, 1], "window_size": 2, "out_features": ["stage2", "stage3", "stage4"],
        },
        text_config={
            "model_type": "bert", "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64,
        },
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, num_queries=9, max_text_len=64, num_feature_levels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    pictures = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    transformers.GroundingDinoProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def ensure_detector() -> Path:
    """Return `DETECTOR`, made if it is not there; see `ensure_made`."""
    return ensure_made(DETECTOR, make_owlv2)
