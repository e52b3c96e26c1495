"""The memory of a run by formula: weights, and keys and values of a batch; activations are not counted."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from mmhall.benchmarks.reproduce.protocol import Shape
from mmhall.errors import ModelError
from mmhall.lvlm import LVLM
from mmhall.models import LoadOptions

_QUANTIZED = {"4bit": 0.5, "8bit": 1.0}


@dataclass(frozen=True, slots=True)
class Widths:
    """Bytes of a value.

    Attributes:
        weight: Bytes of a weight.
        cache: Bytes of a value of keys and values.
        dtype: Name of the data type of the cache.
    """

    weight: float
    cache: int
    dtype: str


def widths_of(loading: LoadOptions) -> Widths:
    """Return the bytes of a value under options of `mmhall.load`; "auto" counts as two bytes."""
    on_gpu = torch.cuda.is_available() and not (loading.device or "").startswith("cpu")
    name = loading.dtype or ("bfloat16" if on_gpu else "float32")
    dtype = torch.bfloat16 if name == "auto" else getattr(torch, name)
    return Widths(_QUANTIZED.get(loading.quantize or "", dtype.itemsize), dtype.itemsize, name)


def shape_of(lvlm: LVLM) -> Shape:
    """Return the size of a loaded model; its image tokens are those of a grey picture."""
    config = lvlm.adapter.decoder.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Shape(lvlm.size, len(lvlm.adapter.layers), heads, width, lvlm.explain("greedy").image_tokens)


def free_memory(loading: LoadOptions) -> int | None:
    """Return the free memory of the GPU, or the memory of the machine; None: not known."""
    if torch.cuda.is_available() and not (loading.device or "").startswith("cpu"):
        return int(torch.cuda.mem_get_info()[0])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def local_parameters(folder: Path) -> int:
    """Return the number of weights in the safetensors files of a folder; only their headers are read.

    Raises:
        ModelError: A file is damaged.
    """
    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as weights:
                count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file}: cannot be read: {error}; get an intact copy") from error
    return count
