"""Facts that identify a model, to check that a file was tuned or fitted on its weights.

A digest of all weights would make loading a large model slow. Compared are the family, the size of the decoder, and
eight values of each tensor. The values are rounded to bfloat16, so that the digests of most checkpoints agree in any
dtype. float16 loses values that other dtypes keep: against float16 the values are compared, up to its rounding error.
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
    """Return facts that identify a model, cheap to compute and serialisable as JSON."""
    config, weights = adapter.decoder.config, dict(sorted(adapter.model.named_parameters()))
    parts = [_sample(weight) for weight in weights.values() if not weight.is_meta]
    values = torch.cat([part.to("cpu") for part in parts]).view(torch.uint8).numpy().tobytes() if parts else b""
    digest = hashlib.sha256("\n".join(weights).encode() + values).hexdigest()[:16]
    complete = len(parts) == len(weights)
    return {
        "model_type": adapter.model.config.model_type,
        "layers": len(adapter.layers),
        "hidden_size": config.hidden_size,
        "heads": adapter.heads,
        "dtype": str(adapter.model.dtype).removeprefix("torch."),
        "sample": digest if complete else None,
        "values": base64.b64encode(values).decode() if complete else None,
    }


def describe_model(adapter: Adapter, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts and name of a model, in the form in which files about the model store them.

    Args:
        adapter: Adapter of the model.
        identity: Result of `LVLM.identity`.
    """
    return {"name": identity["model"], **{k: v for k, v in identity.items() if k != "model"}, **facts(adapter)}


def differing_facts(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the names of the facts in which two models differ; empty where the weights seem to be the same.

    Args:
        stored: Facts from a file; some may be missing.
        current: Facts of the loaded model.
    """
    sizes = [key for key in _SIZES if stored.get(key) != current[key]]
    return ["sample"] if not sizes and _same_weights(stored, current) is False else sizes


def warn_if_unknown(file: str, stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Warn where it cannot be checked that a file was made for this model's weights.

    Args:
        file: Name of the file.
        stored: As in `differing_facts`.
        current: As in `differing_facts`.
    """
    if _same_weights(stored, current) is None:
        problem = f"{file}: cannot check that it was made for this model's weights"
        reason = "it has no sample of weight values" if current["sample"] else "some weights are on disk"
        warnings.warn(f"{problem}: {reason}; make sure that it was, or create it again", MmhallWarning, stacklevel=3)


def format_differences(keys: list[str], stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Format differing facts for an error message: "layers 3 there, 6 here, heads 4 there, 8 here"."""
    return ", ".join(f"{key} {stored.get(key)!r} there, {current.get(key)!r} here" for key in keys)


def chat_template(adapter: Adapter) -> str:
    """Describe the chat template of a model, with a digest where it comes from the processor."""
    return "none: the family has no chat format" if adapter.chat is None else adapter.chat.description


def _sample(weight: Tensor) -> Tensor:
    """Return a few evenly spaced values of a tensor, in bfloat16."""
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED].to(torch.bfloat16)


def _same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Whether two models have the same weights, judged by their samples; None: unknown."""
    if None in (one.get("sample"), other.get("sample")):
        return None
    if (one.get("dtype") == "float16") == (other.get("dtype") == "float16"):
        return bool(one["sample"] == other["sample"])
    values = [_decode_values(side.get("values")) for side in (one, other)]
    return None if values[0] is None or values[1] is None else _are_close(values[0], values[1])


def _decode_values(text: Any) -> Tensor | None:
    """Decode the sampled values in facts, (values,) float32; None where there are none."""
    try:
        raw = bytearray(base64.b64decode(text, validate=True))
        return torch.frombuffer(raw, dtype=torch.bfloat16).float()
    except (TypeError, ValueError):  # an older or damaged file
        return None


def _are_close(one: Tensor, other: Tensor) -> bool:
    """Whether bfloat16 values agree if one side was stored as float16: up to its range and two rounding errors.

    Args:
        one: Values of one model, (values,) float32.
        other: Values of the other model, (values,) float32.
    """
    if len(one) != len(other):
        return False
    one, other = (torch.nan_to_num(side).clamp(-_HALF.max, _HALF.max) for side in (one, other))
    _, exponent = torch.frexp(torch.maximum(one.abs(), other.abs()))
    step = torch.exp2((exponent - 8).float())  # distance of neighbouring bfloat16 values: 8 bits of precision
    return bool(((one - other).abs() <= step + _HALF.smallest_normal * _HALF.eps).all())
