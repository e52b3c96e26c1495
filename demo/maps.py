"""Pictures of what a strategy computed for itself: a map over the image, of layers and heads, or over tokens."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mmhall.analysis import Trace
from mmhall.demo.view import data_url

_HINTS = {
    "saliency": "What the question is about: where the gaze shifts while its words are read. The strategy lifts it.",
    "head gains": "Which heads the strategy amplifies, and how much: those whose output the picture changes most.",
}


def draw_findings(trace: Trace) -> list[dict[str, str]]:
    """Draw the findings of a trace's strategy; returns title, picture, text alternative and hint of each map."""
    return [_draw_finding(trace, name, values) for name, values in trace.findings.items() if values.numel()]


def _draw_finding(trace: Trace, name: str, values: Tensor) -> dict[str, str]:
    title, hint = f"{name[0].upper()}{name[1:]}", _HINTS.get(name, "What the strategy found.")
    if values.ndim == 1:
        image, alt = data_url(trace.overlay_of(values)), f"{name} of the strategy over the picture"
    elif values.ndim == 2:
        image, alt = data_url(heads_map(values), 640), _describe_heads(name, values)
    else:
        by_token = values.flatten(1)  # rows of layers, or of layers and heads
        image, alt = data_url(tokens_map(by_token), 640), _describe_tokens(name, by_token, trace.answer.tokens)
    return {"title": title, "image": image, "alt": alt, "hint": hint}


def heads_map(values: Tensor) -> Image.Image:
    """Draw values (layers, heads) as a grid of colours; NaN, for layers left alone, is grey."""
    return _grid_map(values, "head" if values.shape[1] > 1 else "all heads", "layer", "gain")


def tokens_map(values: Tensor) -> Image.Image:
    """Draw values (tokens, rows), one row for each layer or one for all, as a grid of colours; NaN is grey."""
    return _grid_map(values.T, "token of the answer", "layer" if values.shape[1] > 1 else "all layers", "value")


def _grid_map(values: Tensor, across: str, down: str, colours: str) -> Image.Image:
    """Draw values (rows, columns) as a grid of colours, with the names of its axes and of the values."""
    figure = Figure(figsize=(4.8, 1.2 + 0.16 * max(8, len(values))), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    grid = axes.imshow(np.ma.masked_invalid(values.numpy()), cmap="cividis", aspect="auto", interpolation="nearest")
    axes.set_facecolor("#dddddd")
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.yaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    figure.colorbar(grid, label=colours)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def _describe_heads(name: str, values: Tensor) -> str:
    """Describe a map of layers and heads in words."""
    numbers: Any = values[~values.isnan()]
    top = float(numbers.max()) if len(numbers) else 1.0
    count = int((numbers == top).sum())
    layers = [layer for layer, row in enumerate(values) if not row.isnan().all()]
    if values.shape[1] == 1:
        return f"{name} by layer: " + ", ".join(f"{layer}: {float(values[layer]):.3g}" for layer in layers)
    where = f"layers {layers[0]} to {layers[-1]}" if layers else "no layer"
    return f"{name} by layer and head, in {where}: {count} heads at {top:g}"


def _describe_tokens(name: str, values: Tensor, tokens: Sequence[str]) -> str:
    """Describe a map of tokens, (tokens, rows), in words: the value of each, or the row of its largest value."""
    single = values.shape[1] == 1
    found = values[:, 0] if single else values.nan_to_num(-torch.inf).argmax(dim=1)
    told = ", ".join(f"{token.strip()}: {float(value):.3g}" for token, value in zip(tokens, found, strict=True))
    return f"{name} by token: {told}" if single else f"{name} by token, the layer of the largest value: {told}"
