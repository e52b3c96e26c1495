"""Load a model from a folder, the hub, or the package itself."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers  # names are looked up when needed: an old version, which lacks some, is refused by its number
from torch import nn

from mmhall.errors import ModelError, OptionError
from mmhall.lvlm import LVLM
from mmhall.models import (
    MERGE,
    OWNER,
    UNLOADABLE,
    LoadOptions,
    base_of,
    hint_for,
    located,
    origin_of,
    placement,
    processor_of,
    reason_of,
)
from mmhall.strategies import artifacts as fitted_artifacts, tuned as tuned_options

_REMEDY = "get files that belong together"


def load(
    name: str | Path = "embedded",
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | int | torch.device | Mapping[str, Any] | None = None,
    quantize: str | None = None,
    revision: str | None = None,
    processor: Mapping[str, Any] | None = None,
    chat_template: str | Path | None = None,
    trust_remote_code: bool = False,
    tuned: tuned_options.Where = None,
    artifacts: fitted_artifacts.Where = None,
    **options: Any,
) -> LVLM:
    """Load a model.

    Args:
        name: "embedded" (the model that ships with mmhall), a local folder, or a hub id such as
            "llava-hf/llava-1.5-7b-hf"; only a hub id reaches the network. A folder that peft saved is loaded with its
            base, which needs peft.
        dtype: Of the weights; by default float32 where all of the model is on a CPU, else bfloat16. torch_dtype is
            taken as dtype.
        device: "cpu", "cuda", ...; by default a GPU when there is one.
        device_map: Spreads the model over devices: "auto" or parts to devices; needs accelerate:
            `pip install "mmhall[accelerate]"`.
        quantize: "4bit" or "8bit", by bitsandbytes; for other ways give quantization_config.
        revision: Commit, tag or branch on the hub.
        processor: Options of the processor, such as {"max_pixels": 200704}.
        chat_template: Template to write prompts with, instead of the processor's: a Jinja text, or a file.
        trust_remote_code: Whether code that comes with the model may run.
        tuned: File of options that `mmhall tune` found for this model; False: none. By default "mmhall.json" in the
            model's folder, of other models a file named after them in mmhall/tuned among the user's settings
            ($XDG_CONFIG_HOME, else ~/.config), if there is one.
        artifacts: What strategies have learnt about this model: a file that `mmhall fit` wrote, or a folder of such
            files; False: none. By default what is in the folder "mmhall" of the model's, of other models in one named
            after them in mmhall/artifacts among the user's settings.
        **options: Passed on to transformers' `from_pretrained` (quantization_config, attn_implementation, ...).

    Raises:
        OptionError: An option has a value it cannot have, or two contradict each other.
        ModelError: Nothing loadable is there, mmhall cannot drive it, the options were tuned for other weights, or an
            artifact that was given was fitted on another model.
        DataError: The file of tuned options, of an artifact or of the chat template is missing or damaged.
    """
    asked = LoadOptions(
        device=None if device is None else str(device),
        device_map={"": device_map} if isinstance(device_map, int | torch.device) else device_map,  # type:
        ignore[arg-type] dtype=_dtype(dtype, options),
        quantize=quantize,
        revision=revision,
        processor=processor or {},
        chat_template=chat_template,  # type: ignore[arg-type]  # a file is read there
        trust_remote_code=trust_remote_code,
        artifacts=str(artifacts) if isinstance(artifacts, Path) else artifacts,
    )
    folder = located(name)
    file = tuned_options.find(name, tuned)
    if file is not None:
        tuned_options.read(file)  # a damaged one is told before anything is loaded
    learned = fitted_artifacts.find(name, asked.artifacts)
    source = str(folder) if folder.is_dir() else str(name)
    placed = placement(asked, options)
    try:
        reader = _processor(source, asked)  # before the weights: it is read in no time
        model = _model(source, asked, placed)
    except UNLOADABLE as error:
        raise ModelError(f"cannot load model {str(name)!r}: {reason_of(error)}{hint_for(source)}") from error
    lvlm = LVLM(model, reader, str(name))
    lvlm.loading = json.loads(json.dumps({**asked.given(), **options}, default=str))
    if asked.chat_template is not None and lvlm.adapter.chat is None:
        raise OptionError(OWNER, "chat_template", "a template", "left out: this family has no chat format")
    lvlm.adapter.tuned = tuned_options.options_for(file, lvlm.adapter)
    lvlm.adapter.artifacts = fitted_artifacts.check_artifacts(
        learned, lvlm.adapter, lvlm.loading.get("processor", {}), given=asked.artifacts is not None
    )
    return lvlm


def _dtype(dtype: str | torch.dtype | None, options: dict[str, Any]) -> str | None:
    """Return the name of the dtype asked for, and take transformers' old word for it out of the other options.

    Raises:
        OptionError: Both words are given.
    """
    old = options.pop("torch_dtype", None)
    if old is not None and dtype is not None:
        raise OptionError(OWNER, "torch_dtype", old, "left out beside dtype, which means the same")
    wanted = old if dtype is None else dtype
    return None if wanted is None else str(wanted).removeprefix("torch.")


def _model(source: str, asked: LoadOptions, placed: Mapping[str, Any]) -> transformers.PreTrainedModel:
    """Load a model, or peft's adapter on top of its base.

    Raises:
        ModelError: Weights and model do not fit together.
    """
    base = base_of(source)
    model, found = transformers.AutoModelForImageTextToText.from_pretrained(
        base,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **origin_of(base, asked),
        **placed,
    )
    _check_weights(base, model, found)
    if placed["device_map"] is None:
        target = torch.device(asked.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        quantised = getattr(model, "hf_quantizer", None) is not None  # as it was saved; some may not be moved
        model = model if quantised and model.device.type == target.type else model.to(target)
    if base != source:
        _check_weights(source, model, model.load_adapter(source).to_dict(), f"{_REMEDY}, or merge it with {MERGE}")
    return model


def _processor(source: str, asked: LoadOptions) -> transformers.ProcessorMixin:
    """Load the processor, with the options and the chat template asked for.

    Raises:
        OptionError: It has no such option.
    """
    source = processor_of(source)
    processor = transformers.AutoProcessor.from_pretrained(source, **origin_of(source, asked), **asked.processor)
    parts = [processor, *(getattr(processor, part, None) for part in ("image_processor", "tokenizer"))]
    for option, value in asked.processor.items():
        if not any(_takes(part, option) for part in parts):
            raise OptionError(OWNER, f"processor {option}={value}", value, "an option of this model's processor")
    if asked.chat_template is not None:
        processor.chat_template = asked.chat_template
    return processor


def _takes(part: Any, option: str) -> bool:
    """Whether a processor or a part of it has an option."""
    return hasattr(part, option) or option in getattr(getattr(part, "valid_kwargs", None), "__annotations__", ())


def _check_weights(source: str, model: nn.Module, found: Mapping[str, Any], remedy: str = _REMEDY) -> None:
    """Refuse weights that do not make up the model; say which ones have no place in it.

    Raises:
        ModelError: Some are missing, of the wrong shape, or of layers that the config leaves out.
    """
    shapes = {
        key: f"{tuple(held)} in the file, {tuple(own)} in the model" for key, held, own in found["mismatched_keys"]
    }
    lost = sorted({*found["missing_keys"], *shapes})
    if lost:
        example = f"{lost[0]} ({shapes[lost[0]]})" if lost[0] in shapes else lost[0]
        raise ModelError(
            f"cannot load model {source!r}: {len(lost)} weights are missing or of the wrong shape, such as {example}; "
            f"{remedy}"
        )
    surplus = sorted(found["unexpected_keys"])
    cut = [key for key in surplus if _beyond(model, key)]
    if cut:
        raise ModelError(
            f"cannot load model {source!r}: its config has fewer layers than its file, where {len(cut)} weights would "
            f"be left out, such as {cut[0]}; correct config.json"
        )
    if surplus:
        told = f"{source}: {len(surplus)} weights of the file have no place in the model and are left out"
        warnings.warn(f"{told}, such as {surplus[0]}", stacklevel=2)


def _beyond(model: nn.Module, key: str) -> bool:
    """Whether a weight belongs to a layer behind the last one of a stack that the model has."""
    parts: Sequence[str] = key.split(".")
    for at, part in enumerate(parts):
        if part.isdecimal():
            try:
                stack = model.get_submodule(".".join(parts[:at]))
            except AttributeError:
                return False
            if isinstance(stack, nn.ModuleList) and int(part) >= len(stack):
                return True
    return False
