"""Where a model lies, by the name that people give it; nothing is loaded."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

from mmhall import files
from mmhall.errors import ModelError
from mmhall.files import no_file

EMBEDDED = Path(__file__).resolve().parents[1] / "embedded"
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

MERGE = "merge_and_unload(), save that and give its folder"


def located(name: str | Path) -> Path:
    """Return the folder of a local model, or the path that a hub id would be.

    Raises:
        ModelError: It is no model's name, or the folder holds none.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise ModelError(f'a model is named by a folder, a hub id, or "embedded", got {name!r}')
    folder = EMBEDDED if name == "embedded" else Path(name)
    reason = no_file(folder / _ADAPTER)
    if reason not in (None, "does not exist"):
        raise ModelError(f"{folder / _ADAPTER}: {reason}; give the folder of a saved transformers model, or a hub id")
    if (folder / _ADAPTER).is_file():
        _check_adapter(folder)
    elif folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: holds no config.json; give the folder of a saved transformers model")
    if (folder / "config.json").is_file():
        _held(folder / "config.json")
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: holds no *.safetensors weights; mmhall loads no pickled weights")
    if not folder.is_dir() and (folder.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1):
        raise ModelError(f"{name}: no such folder; give the folder of a saved transformers model, or a hub id")
    return folder


def base_of(source: str) -> str:
    """Return the folder or hub id of the model that a folder's peft adapter was trained on; of any other its own."""
    folder = Path(source)
    if (folder / "config.json").is_file() or not (folder / _ADAPTER).is_file():
        return source
    return str(_held(folder / _ADAPTER)["base_model_name_or_path"])


def processor_of(source: str) -> str:
    """Return where the processor is: in the folder, or with the model that its adapter was trained on."""
    return source if list(Path(source).glob("*processor_config.json")) else base_of(source)


def learned_at(name: str | Path, inside: str, outside: str) -> Path:
    """Return where what mmhall has learnt about a model is looked for: in its folder, else among the user's settings.

    Args:
        name: As `mmhall.load` takes it.
        inside: Its name in a model's folder.
        outside: Its name below mmhall's settings ($XDG_CONFIG_HOME, else ~/.config), "{}" for the model's.
    """
    if name != "embedded" and no_file(Path(name)) == "is a folder":
        return Path(name) / inside
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return settings / "mmhall" / outside.format(files.file_name(str(name)))


def _check_adapter(folder: Path) -> None:
    """Refuse a folder of peft's that cannot be loaded.

    Raises:
        ModelError: peft is not installed, or something is missing.
    """
    merge = f"or merge it into its model with {MERGE}"
    if find_spec("peft") is None:
        raise ModelError(f"{folder}: holds an adapter of peft, which is not installed; pip install peft, {merge}")
    if not (folder / _ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{folder}: holds no {_ADAPTER_WEIGHTS}; save the adapter with peft's save_pretrained, {merge}"
        )
    base = _held(folder / _ADAPTER).get("base_model_name_or_path")
    if not (folder / "config.json").is_file() and not (isinstance(base, str) and base):
        raise ModelError(
            f"{folder / _ADAPTER}: names no base_model_name_or_path; name the adapter's model there, {merge}"
        )
    if isinstance(base, str) and Path(base).is_absolute() and not Path(base).is_dir():
        raise ModelError(
            f"{folder / _ADAPTER}: its model {base} does not exist; correct base_model_name_or_path, {merge}"
        )


def _held(file: Path) -> dict[str, object]:
    """Return what a JSON file describes.

    Raises:
        ModelError: It cannot be read, or describes nothing.
    """
    try:
        held = json.loads(files.read_text(file))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}; get an intact copy") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: is damaged: it is no JSON ({error}); get an intact copy") from error
    if not isinstance(held, dict):
        raise ModelError(f"{file}: is damaged: it holds no object; get an intact copy")
    return held
