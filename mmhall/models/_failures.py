"""Why a model cannot be loaded: the errors of the libraries that load it, as one line with a hint."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import is_offline_mode
from safetensors import SafetensorError

from mmhall.files import read_text

UNLOADABLE = (
    OSError, ValueError, RuntimeError, TypeError, AttributeError, ImportError, KeyError, AssertionError,
    ArithmeticError, SafetensorError,
)  # fmt: skip
_LONGEST = 600


def hint_for(source: str) -> str:
    """Say what may be behind an error: a file that is no JSON, or a model that may not be fetched."""
    if not Path(source).is_dir():
        offline = "; HF_HUB_OFFLINE is set: if files are missing, run once without it"
        return offline if is_offline_mode() else ""
    for file in sorted(Path(source).glob("*.json")):
        try:
            json.loads(read_text(file))
        except (OSError, ValueError, RecursionError):
            return f"; {file.name} is damaged: get an intact copy"
    return ""


def reason_of(error: Exception) -> str:
    """Return what an error says, on one line; of a very long text the beginning and the end."""
    told = " ".join(str(error).split())
    if not told or isinstance(error, KeyError):
        told = f"{type(error).__name__} {told}".strip()
    return told if len(told) <= _LONGEST else f"{told[: _LONGEST // 2]} ... {told[-_LONGEST // 2 :]}"
