"""Gaze records: where an answer looked and what was likely at each token, as plain data, for pages and notebooks.

A record holds:

    id, error               key of the answer; why there are no maps
    grid, box               rows and columns of a map; the part of the picture that it covers, left, top, right, bottom
                            as fractions
    maps, scale             base64 of uint8, (words x rows x columns): attention on each cell while a word was written,
                            mean over its tokens, layers and heads; 255 stands for scale
    shares, share_scale     base64 of uint8, (words x layers x heads): attention on the picture altogether
    layers, heads           numbers of the traced layers and heads
    candidates              for each token five likely ones: text, plain and strategy, probabilities (None: the strategy
                            scores no single token, or is the plain model), and chosen
    findings                what the strategy computed for itself: name, hint, kind ("map", "heads" or "tokens") and
                            values, nested lists in which None stands for "left alone"
    notes                   texts that the strategy made or chose, by name
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmhall.errors import ModelError
from mmhall.text import printable

_HINTS = {
    "saliency": "What the question is about: where the gaze shifts while its words are read. The strategy lifts it.",
    "head gains": "Which heads the strategy amplifies, and how much: those whose output the picture changes most.",
}


def gaze_record(trace: Any, candidates: Sequence[Sequence[Any]] = (), key: str = "") -> dict[str, Any]:
    """Return the gaze record of an answer.

    Args:
        trace: A `mmhall.analysis.Trace` with a picture; maps are those of its first one.
        candidates: Those of `mmhall.analysis.Followed`; empty: none were computed.
        key: Key of the answer.
    """
    record: dict[str, Any] = {"id": key, "error": "", "grid": [0, 0], "box": [0, 0, 1, 1]}
    try:
        maps = word_maps(trace)
        record |= {"grid": list(maps.shape[1:]), "box": list(trace.box()), **packed(maps)}
    except ModelError as error:
        record |= {"error": str(error), **packed(torch.empty(0))}
    shares = packed(per_word(trace, trace.image_share))
    return record | {
        "shares": shares["maps"],
        "share_scale": shares["scale"],
        "layers": list(trace.layers),
        "heads": list(trace.heads),
        "candidates": [[_candidate(one, trace.answer.strategy) for one in some] for some in candidates],
        "findings": [_finding(trace, name, values) for name, values in trace.findings.items() if values.numel()],
        "notes": {printable(name): printable(text) for name, text in trace.notes.items()},
    }


def word_maps(trace: Any, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> Tensor:
    """Return the attention on the picture while each word was written, (words, rows, columns).

    Args:
        trace: As in `gaze_record`.
        layers: Decoder layers to average over; None: all that were traced.
        heads: Heads to average over; None: all that were traced.

    Raises:
        ModelError: The image tokens of this model have no places.
        OptionError: A layer or head was not traced.
    """
    maps = [trace.heatmap(word.tokens, layers=layers, heads=heads) for word in trace.words]
    return torch.stack(maps) if maps else torch.empty(0, *trace.grid.finest(0))


def per_word(trace: Any, values: Tensor) -> Tensor:
    """Average values of tokens, (tokens, ...), over the tokens of each word, (words, ...)."""
    means = [values[list(word.tokens)].mean(dim=0) for word in trace.words]
    return torch.stack(means) if means else values.new_empty(0, *values.shape[1:])


def packed(values: Tensor) -> dict[str, Any]:
    """Pack values >= 0 as base64 of uint8, "maps", and the value that 255 stands for, "scale"."""
    scale = float(values.max()) if values.numel() else 0.0
    levels = (values * (255 / scale) if scale > 0 else values).round().to(torch.uint8)
    return {"maps": base64.b64encode(levels.contiguous().numpy().tobytes()).decode(), "scale": scale}


def _candidate(one: Any, strategy: str) -> dict[str, Any]:
    own = None if one.strategy is None or strategy == "greedy" else round(one.strategy, 5)
    return {"text": printable(one.text), "plain": round(one.plain, 5), "strategy": own, "chosen": one.chosen}


def _finding(trace: Any, name: str, values: Tensor) -> dict[str, Any]:
    kind, hint = {1: "map", 2: "heads"}.get(values.ndim, "tokens"), _HINTS.get(name, "What the strategy found.")
    if values.ndim == 1 and trace.grid.finest(0) != (0, 0):
        values = trace.spread(values)
    return {"name": printable(name), "kind": kind, "hint": hint, "values": _nested(values.float().tolist())}


def _nested(values: Any) -> Any:
    """Round nested lists of numbers; those that are not finite become None, as JSON has none."""
    if isinstance(values, list):
        return [_nested(value) for value in values]
    return None if values - values != 0 else round(values, 5)


def map_record(values: Tensor, box: Sequence[float], **more: Any) -> Mapping[str, Any]:
    """Return one map, (rows, columns), as data: grid, box, map and scale."""
    content = packed(values)
    return {"grid": list(values.shape), "box": list(box), "map": content["maps"], "scale": content["scale"], **more}
