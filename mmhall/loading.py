"""Load a model from a folder, the hub, or the package itself."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers  # names are looked up when needed: an old version, which lacks some, is refused by its number
from safetensors import SafetensorError

from mmhall import tuned as tuned_options
from mmhall.errors import ModelError
from mmhall.located import located
from mmhall.lvlm import LVLM

UNLOADABLE = (
    OSError, ValueError, RuntimeError, TypeError, AttributeError, ImportError, KeyError, AssertionError,
    ArithmeticError, SafetensorError,
)  # fmt: skip


def load(
    name: str | Path = "embedded",
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    tuned: tuned_options.Where = None,
    **options: Any,
) -> LVLM:
    """Load a model.

    Args:
        name: "embedded" (the model that ships with mmhall), a local folder, or a hub id such as
            "llava-hf/llava-1.5-7b-hf"; only a hub id reaches the network.
        dtype: Of the weights; by default float32 on a CPU and bfloat16 on a GPU.
        device: "cpu", "cuda", ...; by default a GPU when there is one.
        revision: Commit, tag or branch on the hub.
        tuned: File of options that `mmhall tune` found for this model; False: none. By default "mmhall.json" in the
            model's folder, of other models a file named after them in mmhall/tuned among the user's settings
            ($XDG_CONFIG_HOME, else ~/.config), if there is one.
        **options: Passed on to transformers' `from_pretrained` (device_map, quantization_config, ...); a device_map
            needs accelerate: `pip install "mmhall[accelerate]"`.

    Raises:
        ModelError: Nothing loadable is there, mmhall cannot drive it, or the options were tuned for other weights.
        DataError: The file of tuned options is missing or damaged.
    """
    folder = located(name)
    source = str(folder) if folder.is_dir() else str(name)
    file = tuned_options.find(name, tuned)
    if file is not None:
        tuned_options.read(file)  # a damaged one is told before anything is loaded
    if options.get("device_map") is not None and find_spec("accelerate") is None:
        raise ModelError('a device_map needs accelerate, and it is not installed; pip install "mmhall[accelerate]"')
    target = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is None:
        on_cpu = str(options.get("device_map", target)).startswith("cpu")
        dtype = torch.float32 if on_cpu else torch.bfloat16
    shared = {
        "revision": revision,
        "trust_remote_code": options.pop("trust_remote_code", False),
        "local_files_only": folder.is_dir(),
    }
    try:
        model, told = transformers.AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True, **shared, **options
        )
        placed = {"device_map", "quantization_config"} & options.keys()
        model = model if placed else model.to(target)
        processor = transformers.AutoProcessor.from_pretrained(source, **shared)
    except UNLOADABLE as error:
        raise ModelError(f"cannot load model {str(name)!r}: {first_lines(error)}") from error
    lost = sorted([*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])])
    if lost:
        raise ModelError(
            f"cannot load model {str(name)!r}: {len(lost)} weights are missing or of the wrong shape, such as {lost[0]}"
        )
    lvlm = LVLM(model, processor, str(name))
    lvlm.adapter.tuned = tuned_options.options_of(file, lvlm.adapter)
    return lvlm


def first_lines(error: Exception) -> str:
    """Return what an error says first, up to the line that ends its sentence."""
    told: list[str] = []
    for line in str(error).strip().splitlines() or [type(error).__name__]:
        told.append(line.strip())
        if not line.rstrip().endswith(":"):
            break
    return " ".join(told)
