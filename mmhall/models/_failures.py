"""Errors while loading a model: exceptions of the libraries involved, as one line with a hint."""

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
    """Return a hint at the cause of a loading error: a damaged JSON file, or offline mode; "" where unknown."""
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
    """Return the message of an error on one line; of a very long message the beginning and the end."""
    message = " ".join(str(error).split())
    if not message or isinstance(error, KeyError):
        message = f"{type(error).__name__} {message}".strip()
    return message if len(message) <= _LONGEST else f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
