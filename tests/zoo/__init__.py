"""Tiny random models of every supported family, each with its real processor, built offline."""

from __future__ import annotations

from functools import cache

from transformers import PreTrainedModel, ProcessorMixin

from tests.zoo import dynamic, llavas, resampled

ZOO = {**llavas.ZOO, **dynamic.ZOO, **resampled.ZOO}

# One family for each way in which a decoder or its pictures behave; tests of strategies and of generation run on these.
REPRESENTATIVES = {
    "llava": "full attention, one raster of image tokens",
    "llava_next": "tiles, packed with rows' ends between",
    "qwen2_5_vl": "a flat list of patches, positions in three dimensions",
    "qwen3_5": "linear layers",
    "gemma3": "sliding windows",
    "gemma4": "keys that layers share, tokens' own embeddings",
    "llama4": "chunked attention",
    "paligemma": "a prefix that attends in both directions",
    "instructblip": "image features that are embeddings only, resampled",
    "mllama": "cross attention",
}


@cache
def built(name: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Build a family's model and processor once."""
    return ZOO[name]()
