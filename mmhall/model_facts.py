"""Facts that tell a model from others, to know whose weights something was tuned or fitted on.

Digesting every weight would make loading a large model slow. What is compared instead: the family, the decoder's size,
and a digest of eight values of each tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmhall.adapters.base import Adapter

_SAMPLED = 8
_SIZES = ("model_type", "layers", "hidden_size", "heads")


def facts(adapter: Adapter) -> dict[str, Any]:
    """Return what tells a model from others at no cost worth naming; JSON can write it."""
    config, weights = adapter.decoder.config, dict(sorted(adapter.model.named_parameters()))
    parts = [_sampled(weight) for weight in weights.values() if not weight.is_meta]
    digest = hashlib.sha256("\n".join(weights).encode())
    digest.update(torch.cat([part.to("cpu") for part in parts]).view(torch.uint8).numpy().tobytes() if parts else b"")
    return {
        "model_type": adapter.model.config.model_type,
        "layers": len(adapter.layers),
        "hidden_size": config.hidden_size,
        "heads": adapter.heads,
        "dtype": str(adapter.model.dtype).removeprefix("torch."),
        "sample": digest.hexdigest()[:16] if len(parts) == len(weights) else None,
    }


def described(adapter: Adapter, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's facts and what it is called, as a file about it keeps them.

    Args:
        adapter: The model.
        identity: What `LVLM.identity` tells of it.
    """
    return {"name": identity["model"], **{k: v for k, v in identity.items() if k != "model"}, **facts(adapter)}


def differing(kept: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Name the facts in which two models differ; none: they have the same weights, as far as that can be told.

    Args:
        kept: Facts that a file holds; some may be missing.
        own: Those of the model at hand.
    """
    sizes = [key for key in _SIZES if kept.get(key) != own[key]]
    if not sizes and _comparable(kept, own) and kept.get("sample") != own["sample"]:
        return ["sample"]
    return sizes


def contrasted(keys: list[str], kept: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Write differing facts for a refusal: "layers 3 there, 6 here, heads 4 there, 8 here"."""
    return ", ".join(f"{key} {kept.get(key)!r} there, {own.get(key)!r} here" for key in keys)


def chat_template(adapter: Adapter) -> str:
    """Say which chat template writes a model's prompts, with a digest of one that its processor brings."""
    return "none: the family has no chat format" if adapter.chat is None else adapter.chat.told


def _sampled(weight: Tensor) -> Tensor:
    """Return a few values spread over a tensor, rounded to bfloat16, which most weights survive in any dtype."""
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED].to(torch.bfloat16)


def _comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the samples of two models must agree if their weights do.

    A model partly kept on disk shows no values, and float16 loses some that the other dtypes keep.
    """
    half = {one.get("dtype") == "float16", other.get("dtype") == "float16"}
    return None not in (one.get("sample"), other.get("sample")) and len(half) == 1
