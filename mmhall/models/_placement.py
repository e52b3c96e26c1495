"""Arguments of transformers' `from_pretrained`: device, precision and source of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers

from mmhall.errors import ModelError, OptionError
from mmhall.models._options import OWNER, LoadOptions

_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")


def placement_arguments(requested: LoadOptions, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for device, dtype and quantisation.

    Raises:
        OptionError: Quantisation is requested twice.
        ModelError: A package is not installed.
    """
    target = requested.device or ("cuda" if torch.cuda.is_available() else "cpu")
    quantised = requested.quantize is not None or options.get("quantization_config") is not None
    if requested.quantize is not None and options.get("quantization_config") is not None:
        raise OptionError(OWNER, "quantize", requested.quantize, "left out beside a quantization_config")
    device_map = target if quantised and requested.device_map is None else requested.device_map
    if device_map is not None and find_spec("accelerate") is None:
        what = "a device_map" if requested.device_map is not None else "quantising"
        raise ModelError(f'{what} needs accelerate, which is not installed; pip install "mmhall[accelerate]"')
    if requested.quantize is not None and find_spec("bitsandbytes") is None:
        raise ModelError("quantize needs bitsandbytes, which is not installed; pip install bitsandbytes")
    dtype = requested.dtype or ("float32" if _on_cpu(device_map or target) else "bfloat16")
    arguments = {**options, "dtype": dtype, "device_map": device_map}
    if requested.quantize is not None:
        bits = {f"load_in_{requested.quantize}": True}
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(**bits, bnb_4bit_compute_dtype=dtype)
    return arguments


def _on_cpu(device_map: str | Mapping[str, Any]) -> bool:
    """Whether a device, or every device of a device map, is the CPU or the disk."""
    if isinstance(device_map, str):
        return not torch.accelerator.is_available() if device_map in _SPREAD else device_map.startswith("cpu")
    return all(str(device).startswith(("cpu", "disk")) for device in device_map.values())


def source_arguments(source: str, requested: LoadOptions) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for the source of both model and processor."""
    revision, trusted = requested.revision, requested.trust_remote_code
    return {"revision": revision, "trust_remote_code": trusted, "local_files_only": Path(source).is_dir()}
