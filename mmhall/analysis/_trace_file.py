"""Trace files: the fields of a trace as tensors and metadata of a safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmhall.adapters import Grid
from mmhall.answers import Answer, Uncertainty, Usage
from mmhall.errors import DataError
from mmhall.words import Word

if TYPE_CHECKING:
    from mmhall.analysis._trace import Trace

_FORMAT = "mmhall trace 2"
_FINDING = "finding."  # begins the names of findings among the tensors


def write_fields(path: str | Path, trace: Trace) -> None:
    """Write the fields of a trace to a file.

    Raises:
        DataError: The file cannot be written.
    """
    tensors = {
        "image_attention": trace.image_attention,
        "gaze": trace.gaze,
        **{name: getattr(trace.grid, name) for name in ("image", "view", "row", "column")},
        **{f"{_FINDING}{name}": values for name, values in trace.findings.items()},
        **{f"picture.{i}": torch.from_numpy(np.array(image)) for i, image in enumerate(trace.pictures)},
    }
    if trace.grid.edges is not None:
        tensors["edges"] = trace.grid.edges
    metadata = {
        "answer": asdict(trace.answer),
        "prompt": trace.prompt,
        "layers": trace.layers,
        "heads": trace.heads,
        "words": [asdict(word) for word in trace.words],
        "model": trace.model,
        "notes": trace.notes,
    }
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, path, metadata={"format": _FORMAT, "trace": json.dumps(metadata)})
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be written ({error}); give another name") from error


def read_fields(path: str | Path) -> dict[str, Any]:
    """Read the fields of a trace from a file.

    Raises:
        DataError: The file is missing, damaged, or no trace.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as a trace ({error}); give a file written by Trace.save") from error
    if metadata.get("format") != _FORMAT:
        raise DataError(f"{path}: is no trace; give a file written by Trace.save")
    try:
        return _fields(tensors, json.loads(metadata["trace"]))
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is a damaged trace ({error!r})") from error


def _fields(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> dict[str, Any]:
    """Build the fields of a trace from a file's tensors and metadata."""
    pictures = sum(name.startswith("picture.") for name in tensors)
    places: dict[str, Any] = {name: tensors[name] for name in ("image", "view", "row", "column")}
    return {
        "answer": _answer(metadata["answer"]),
        "prompt": metadata["prompt"],
        "image_attention": tensors["image_attention"],
        "gaze": tensors["gaze"],
        "layers": tuple(metadata["layers"]),
        "heads": tuple(metadata["heads"]),
        "grid": Grid(**places, edges=tensors.get("edges")),
        "words": tuple(Word(word["text"], tuple(word["tokens"])) for word in metadata["words"]),
        "pictures": tuple(Image.fromarray(tensors[f"picture.{i}"].numpy()) for i in range(pictures)),
        "model": metadata["model"],
        "notes": metadata.get("notes", {}),
        "findings": {name.removeprefix(_FINDING): t for name, t in tensors.items() if name.startswith(_FINDING)},
    }


def _answer(fields: dict[str, Any]) -> Answer:
    """Build an answer from its JSON form."""
    certainty = fields["uncertainty"]
    return Answer(
        **{
            **fields,
            "tokens": tuple(fields["tokens"]),
            "token_ids": tuple(fields["token_ids"]),
            "usage": Usage(**fields["usage"]),
            "uncertainty": None
            if certainty is None
            else Uncertainty(**{k: v and tuple(v) for k, v in certainty.items()}),
            "others": tuple(_answer(other) for other in fields["others"]),
        }
    )
