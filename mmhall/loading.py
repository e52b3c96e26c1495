"""Load a model from a folder, the hub, or the package itself."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers  # not its names: an old version lacks some, and is refused by its number
from torch import nn

from mmhall.errors import ModelError, OptionError
from mmhall.lvlm import LVLM
from mmhall.models import (
    MERGE,
    OWNER,
    SECRET,
    UNLOADABLE,
    LoadOptions,
    base_of,
    find_model_path,
    hint_for,
    placement_arguments,
    processor_of,
    reason_of,
    source_arguments,
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
        dtype: Dtype of the weights; by default float32 where the whole model is on a CPU, else bfloat16. torch_dtype is
            the same.
        device: "cpu", "cuda", ...; by default a GPU when there is one.
        device_map: Spreads the model over devices: "auto" or parts to devices; needs accelerate:
            `pip install "mmhall[accelerate]"`.
        quantize: "4bit" or "8bit", by bitsandbytes; for other methods give quantization_config.
        revision: Commit, tag or branch on the hub.
        processor: Options of the processor, such as {"max_pixels": 200704}.
        chat_template: Chat template instead of the processor's: a Jinja text, or a file.
        trust_remote_code: Whether to run code that comes with the model.
        tuned: File of tuned options, written by `mmhall tune`; False: none. By default "mmhall.json" in the model's
            folder, or for models without a folder a file of their name in mmhall/tuned among the user's settings
            ($XDG_CONFIG_HOME, else ~/.config), if there is one.
        artifacts: Fitted artifacts: a file written by `mmhall fit`, or a folder of such files; False: none. By default
            those in "mmhall" in the model's folder, or for models without a folder in a folder of their name in
            mmhall/artifacts among the user's settings.
        **options: Passed on to transformers' `from_pretrained` (quantization_config, attn_implementation, ...).

    Raises:
        OptionError: An option has a value that is not allowed, or two options contradict each other.
        ModelError: There is no model to load, mmhall does not support it, the options were tuned for other weights, or
            a given artifact was fitted on another model.
        DataError: The file of tuned options, of an artifact or of the chat template is missing or damaged.
    """
    if isinstance(name, torch.nn.Module):
        raise ModelError(
            f"a {type(name).__name__} is loaded already; mmhall.wrap(model, processor) takes it with its processor"
        )
    loading = LoadOptions(
        device=None if device is None else str(device),
        device_map={"": device_map} if isinstance(device_map, int | torch.device) else device_map,  # type: ignore[arg-type]
        dtype=_dtype(dtype, options),
        quantize=quantize,
        revision=revision,
        processor=processor or {},
        chat_template=chat_template,  # type: ignore[arg-type]  # it reads a file
        trust_remote_code=trust_remote_code,
        artifacts=str(artifacts) if isinstance(artifacts, Path) else artifacts,
    )
    folder = find_model_path(name)
    file = tuned_options.find(name, tuned)
    if file is not None:
        tuned_options.read(file)  # a damaged file is an error before the model is loaded
    artifact_list = fitted_artifacts.find(name, loading.artifacts)
    source = str(folder) if folder.is_dir() else str(name)
    placed = placement_arguments(loading, options)
    try:
        loaded_processor = _processor(source, loading)  # before the weights, as it is read fast
        model = _model(source, loading, placed)
    except UNLOADABLE as error:
        raise ModelError(f"cannot load model {str(name)!r}: {reason_of(error)}{hint_for(source)}") from error
    lvlm = LVLM(model, loaded_processor, str(name))
    given = {**loading.non_defaults(), **({} if tuned is None else {"tuned": tuned}), **options}
    stored = {name: value for name, value in given.items() if name not in SECRET}
    lvlm.loading = json.loads(json.dumps(stored, default=str))
    if loading.chat_template is not None and lvlm.adapter.chat is None:
        raise OptionError(OWNER, "chat_template", "a template", "left out: this family has no chat format")
    lvlm.adapter.tuned = tuned_options.options_for(file, lvlm.adapter)
    lvlm.adapter.artifacts = fitted_artifacts.check_artifacts(
        artifact_list, lvlm.adapter, lvlm.loading.get("processor", {}), given=loading.artifacts is not None
    )
    return lvlm


def wrap(model: transformers.PreTrainedModel, processor: transformers.ProcessorMixin, name: str = "model") -> LVLM:
    """Attach mmhall to a model that is loaded already.

    Args:
        model: The model, also one that peft or torch.compile has wrapped.
        processor: Its processor.
        name: Name of the model in results.

    Raises:
        ModelError: mmhall does not support this kind of model, or the processor reads no pictures.
    """
    return LVLM(model, processor, name)


def _dtype(dtype: str | torch.dtype | None, options: dict[str, Any]) -> str | None:
    """Return the name of the requested dtype, and remove transformers' old keyword from the other options.

    Raises:
        OptionError: Both keywords are given.
    """
    old = options.pop("torch_dtype", None)
    if old is not None and dtype is not None:
        raise OptionError(OWNER, "torch_dtype", old, "left out beside dtype, which means the same")
    requested = old if dtype is None else dtype
    return None if requested is None else str(requested).removeprefix("torch.")


def _model(source: str, loading: LoadOptions, placed: Mapping[str, Any]) -> transformers.PreTrainedModel:
    """Load a model, or a peft adapter with its base model.

    Raises:
        ModelError: The weights do not fit the model.
    """
    base = base_of(source)
    model, report = transformers.AutoModelForImageTextToText.from_pretrained(
        base,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **source_arguments(base, loading),
        **placed,
    )
    _check_weights(base, model, report)
    if placed["device_map"] is None:
        target = torch.device(loading.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        quantised = getattr(model, "hf_quantizer", None) is not None  # saved quantised: some cannot be moved
        model = model if quantised and model.device.type == target.type else model.to(target)
    if base != source:
        _check_weights(source, model, model.load_adapter(source).to_dict(), f"{_REMEDY}, or merge it with {MERGE}")
    return model


def _processor(source: str, loading: LoadOptions) -> transformers.ProcessorMixin:
    """Load the processor with its options and chat template.

    Raises:
        OptionError: It has no such option.
    """
    source = processor_of(source)
    arguments = source_arguments(source, loading)
    processor = transformers.AutoProcessor.from_pretrained(source, **arguments, **loading.processor)
    parts = [processor, *(getattr(processor, part, None) for part in ("image_processor", "tokenizer"))]
    for option, value in loading.processor.items():
        if not any(_has_option(part, option) for part in parts):
            raise OptionError(OWNER, f"processor {option}={value}", value, "an option of this model's processor")
    if loading.chat_template is not None:
        processor.chat_template = loading.chat_template
    return processor


def _has_option(part: Any, option: str) -> bool:
    """Whether a processor or a part of it has an option."""
    return hasattr(part, option) or option in getattr(getattr(part, "valid_kwargs", None), "__annotations__", ())


def _check_weights(source: str, model: nn.Module, report: Mapping[str, Any], remedy: str = _REMEDY) -> None:
    """Check that the weights of a file fit the model; warn about weights without a place in it.

    Raises:
        ModelError: Weights are missing, of the wrong shape, or of layers that the config leaves out.
    """
    shapes = {
        key: f"{tuple(in_file)} in the file, {tuple(in_model)} in the model"
        for key, in_file, in_model in report["mismatched_keys"]
    }
    missing = sorted({*report["missing_keys"], *shapes})
    if missing:
        example = f"{missing[0]} ({shapes[missing[0]]})" if missing[0] in shapes else missing[0]
        raise ModelError(
            f"cannot load model {source!r}: {len(missing)} weights are missing or of the wrong shape, such as "
            f"{example}; {remedy}"
        )
    surplus = sorted(report["unexpected_keys"])
    cut = [key for key in surplus if _is_beyond_depth(model, key)]
    if cut:
        raise ModelError(
            f"cannot load model {source!r}: its config has fewer layers than its file, where {len(cut)} weights would "
            f"be left out, such as {cut[0]}; correct config.json"
        )
    if surplus:
        message = f"{source}: {len(surplus)} weights of the file have no place in the model and are left out"
        warnings.warn(f"{message}, such as {surplus[0]}", stacklevel=2)


def _is_beyond_depth(model: nn.Module, key: str) -> bool:
    """Whether a weight belongs to a layer beyond the depth of the model's layer stack."""
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
