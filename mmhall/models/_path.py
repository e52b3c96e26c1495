"""Paths of a model, its processor and its settings, from the model's name; nothing is loaded."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

from mmhall import files
from mmhall.errors import ModelError
from mmhall.files import why_not_a_file

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

SHIPPED: dict[str, Path] = {
    "embedded": EMBEDDED,
    **{f"embedded/{file.parent.name}": file.parent for file in sorted(EMBEDDED.glob("*/config.json"))},
}
"""Name to folder of every model that ships with mmhall; these names come before folders and hub ids."""

MERGE = "merge_and_unload(), save that and give its folder"


def find_model_path(name: str | Path) -> Path:
    """Return the folder of a local model; for a hub id, the id as a path.

    Raises:
        ModelError: The name is invalid, or the folder holds no usable model.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise ModelError(f'a model is named by a folder, a hub id, or "embedded", got {name!r}')
    folder = SHIPPED.get(str(name), Path(name))
    reason = why_not_a_file(folder / _ADAPTER)
    if reason not in (None, "does not exist"):
        raise ModelError(f"{folder / _ADAPTER}: {reason}; give the folder of a saved transformers model, or a hub id")
    if (folder / _ADAPTER).is_file():
        _check_adapter(folder)
    elif folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: holds no config.json; give the folder of a saved transformers model")
    if (folder / "config.json").is_file():
        _read_object(folder / "config.json")
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: holds no *.safetensors weights; mmhall loads no pickled weights")
    if not folder.is_dir() and (folder.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1):
        raise ModelError(f"{name}: no such folder; give the folder of a saved transformers model, or a hub id")
    return folder


def base_of(source: str) -> str:
    """Return the folder or hub id of the base model of a peft adapter; for any other model, its own."""
    folder = Path(source)
    if (folder / "config.json").is_file() or not (folder / _ADAPTER).is_file():
        return source
    return str(_read_object(folder / _ADAPTER)["base_model_name_or_path"])


def processor_of(source: str) -> str:
    """Return the folder or hub id of the processor: the model's, or that of its adapter's base model."""
    return source if list(Path(source).glob("*processor_config.json")) else base_of(source)


def find_learned_path(name: str | Path, inside: str, outside: str) -> Path:
    """Return the path of tuned or fitted values of a model: in its folder, otherwise in the user's settings.

    Args:
        name: Name of the model, as for `mmhall.load`.
        inside: File name in the folder of a model.
        outside: Path in mmhall's settings ($XDG_CONFIG_HOME, otherwise ~/.config), with "{}" for the model's name.
    """
    if str(name) not in SHIPPED and why_not_a_file(Path(name)) == "is a folder":
        return Path(name) / inside
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return settings / "mmhall" / outside.format(files.file_name(str(name)))


def _check_adapter(folder: Path) -> None:
    """Check that the peft adapter in a folder can be loaded.

    Raises:
        ModelError: peft is not installed, or a part of the adapter is missing.
    """
    merge = f"or merge it into its model with {MERGE}"
    if find_spec("peft") is None:
        raise ModelError(f"{folder}: holds an adapter of peft, which is not installed; pip install peft, {merge}")
    if not (folder / _ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{folder}: holds no {_ADAPTER_WEIGHTS}; save the adapter with peft's save_pretrained, {merge}"
        )
    base = _read_object(folder / _ADAPTER).get("base_model_name_or_path")
    if not (folder / "config.json").is_file() and not (isinstance(base, str) and base):
        raise ModelError(
            f"{folder / _ADAPTER}: has no base_model_name_or_path; add the name of the base model, {merge}"
        )
    if isinstance(base, str) and Path(base).is_absolute() and not Path(base).is_dir():
        raise ModelError(
            f"{folder / _ADAPTER}: its base model {base} does not exist; correct base_model_name_or_path, {merge}"
        )


def _read_object(file: Path) -> dict[str, object]:
    """Read the object in a JSON file.

    Raises:
        ModelError: The file cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(files.read_text(file))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}; get an intact copy") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: is damaged: it is not JSON ({error}); get an intact copy") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file}: is damaged: it holds no JSON object; get an intact copy")
    return content
