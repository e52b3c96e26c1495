"""Facts that tell a model from others, to know whose weights something was tuned or fitted on.

Digesting every weight would make loading a large model slow. What is compared instead: the family, the decoder's size,
and eight values of each tensor. They are rounded to bfloat16, which most weights survive in any dtype: their digests
agree. float16 loses some that the other dtypes keep: against it the values themselves are compared, up to its rounding.
"""

from __future__ import annotations

import base64
import hashlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmhall.errors import MmhallWarning

if TYPE_CHECKING:
    from mmhall.adapters import Adapter

_SAMPLED = 8
_HALF = torch.finfo(torch.float16)
_SIZES = ("model_type", "layers", "hidden_size", "heads")


def facts(adapter: Adapter) -> dict[str, Any]:
    """Return what tells a model from others at no cost worth naming; JSON can write it."""
    config, weights = adapter.decoder.config, dict(sorted(adapter.model.named_parameters()))
    parts = [_sampled(weight) for weight in weights.values() if not weight.is_meta]
    values = torch.cat([part.to("cpu") for part in parts]).view(torch.uint8).numpy().tobytes() if parts else b""
    digest = hashlib.sha256("\n".join(weights).encode() + values).hexdigest()[:16]
    whole = len(parts) == len(weights)
    return {
        "model_type": adapter.model.config.model_type,
        "layers": len(adapter.layers),
        "hidden_size": config.hidden_size,
        "heads": adapter.heads,
        "dtype": str(adapter.model.dtype).removeprefix("torch."),
        "sample": digest if whole else None,
        "values": base64.b64encode(values).decode() if whole else None,
    }


def describe_model(adapter: Adapter, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's facts and what it is called, as a file about it keeps them.

    Args:
        adapter: The model.
        identity: What `LVLM.identity` tells of it.
    """
    return {"name": identity["model"], **{k: v for k, v in identity.items() if k != "model"}, **facts(adapter)}


def differing_facts(kept: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Name the facts in which two models differ; none: they have the same weights, as far as that can be told.

    Args:
        kept: Facts that a file holds; some may be missing.
        own: Those of the model at hand.
    """
    sizes = [key for key in _SIZES if kept.get(key) != own[key]]
    return ["sample"] if not sizes and _same_weights(kept, own) is False else sizes


def warn_if_unknown(file: str, kept: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Warn where nothing tells whether a file was made for this model's weights.

    Args:
        file: What it is called.
        kept: As in `differing_facts`.
        own: As in `differing_facts`.
    """
    if _same_weights(kept, own) is None:
        told = f"{file}: nothing tells whether it was made for this model's weights"
        why = "it keeps no values of weights that could be compared" if own["sample"] else "some of these lie on disk"
        warnings.warn(f"{told}: {why}; make sure of it, or make it again", MmhallWarning, stacklevel=3)


def format_differences(keys: list[str], kept: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Write differing facts for a refusal: "layers 3 there, 6 here, heads 4 there, 8 here"."""
    return ", ".join(f"{key} {kept.get(key)!r} there, {own.get(key)!r} here" for key in keys)


def chat_template(adapter: Adapter) -> str:
    """Say which chat template writes a model's prompts, with a digest of one that its processor brings."""
    return "none: the family has no chat format" if adapter.chat is None else adapter.chat.told


def _sampled(weight: Tensor) -> Tensor:
    """Return a few values spread over a tensor, in bfloat16."""
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED].to(torch.bfloat16)


def _same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Whether two models have the same weights, as far as their samples show; None: nothing tells."""
    if None in (one.get("sample"), other.get("sample")):
        return None
    if (one.get("dtype") == "float16") == (other.get("dtype") == "float16"):
        return bool(one["sample"] == other["sample"])
    values = [_decoded(side.get("values")) for side in (one, other)]
    return None if values[0] is None or values[1] is None else _near(values[0], values[1])


def _decoded(text: Any) -> Tensor | None:
    """Return the values that facts hold as text, (values,) float32; None: they hold none."""
    try:
        held = bytearray(base64.b64decode(text, validate=True))
        return torch.frombuffer(held, dtype=torch.bfloat16).float()
    except (TypeError, ValueError):  # of an older file, or damaged
        return None


def _near(one: Tensor, other: Tensor) -> bool:
    """Whether values of bfloat16 agree if one side went through float16: up to its range, and to rounding twice.

    Args:
        one: (values,) float32.
        other: The same, of the other model.
    """
    if len(one) != len(other):
        return False
    one, other = (torch.nan_to_num(side).clamp(-_HALF.max, _HALF.max) for side in (one, other))
    _, exponent = torch.frexp(torch.maximum(one.abs(), other.abs()))
    step = torch.exp2((exponent - 8).float())  # between neighbours: 8 bits of precision
    return bool(((one - other).abs() <= step + _HALF.smallest_normal * _HALF.eps).all())
