"""Where a model lies, by the name that people give it; nothing is loaded."""

from __future__ import annotations

from pathlib import Path

from mmhall.errors import ModelError

EMBEDDED = Path(__file__).resolve().parent / "embedded"


def located(name: str | Path) -> Path:
    """Return the folder of a local model, or the path that a hub id would be.

    Raises:
        ModelError: It is no model's name, or the folder holds none.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise ModelError(f'a model is named by a folder, a hub id, or "embedded", got {name!r}')
    folder = EMBEDDED if name == "embedded" else Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: holds no config.json; give the folder of a saved transformers model")
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: holds no *.safetensors weights; mmhall loads no pickled weights")
    if not folder.is_dir() and (folder.is_absolute() or str(name).startswith(".") or str(name).count("/") > 1):
        raise ModelError(f"{name}: no such folder; give the folder of a saved transformers model, or a hub id")
    return folder
