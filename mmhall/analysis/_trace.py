"""Traces: the attention from each new token to the image tokens."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Grid
from mmhall.analysis import _heat_map as heat_map
from mmhall.analysis._saliency import scale
from mmhall.analysis._trace_file import read_fields, write_fields
from mmhall.answers import Answer
from mmhall.attention import Call, Op
from mmhall.errors import ModelError, OptionError
from mmhall.text import shorten
from mmhall.words import Word

_LONGEST_SIDE = 1024  # pixels of the longer side of a trace's pictures


class AttentionProbe(Op):
    """Records the attention from the newest row to the image columns in each pass, for a single request."""

    def __init__(self, adapter: Adapter, image: Tensor, layers: Sequence[int], heads: Sequence[int]) -> None:
        """Choose the layers and heads to record.

        Args:
            adapter: The model.
            image: Prompt positions of the image tokens, (N,); not needed in cross-attention layers.
            layers: 0-based.
            heads: 0-based.
        """
        self.layers, self.kinds = frozenset(layers), adapter.image_kinds
        self._place = {layer: index for index, layer in enumerate(layers)}
        self._image, self._heads = image, None if list(heads) == list(range(adapter.heads)) else list(heads)
        self._first = int(image[0]) if len(image) and int(image[-1] - image[0]) == len(image) - 1 else None
        self._recorded, self._steps = torch.empty(0), 0

    def rows(self, call: Call) -> LongTensor:
        """Return the newest row."""
        return call.newest

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Record the image columns; columns outside a sliding window get 0."""
        attention = probs[0, :, 0] if self._heads is None else probs[0, self._heads, 0]
        if call.kind != "cross" and self._first is not None and self._first >= call.offset:
            attention = attention.narrow(1, self._first - call.offset, len(self._image))  # one run, inside the window
        elif call.kind != "cross":
            columns = self._image - call.offset
            gone = columns < 0
            attention = attention[:, columns.clamp_min(0)].masked_fill(gone, 0.0)
        if call.step >= len(self._recorded):
            self._grow(attention)
        self._recorded[call.step, self._place[call.layer]] = attention
        self._steps = call.step + 1

    def attention(self) -> Tensor:
        """Return the recorded attention, (steps, layers, heads, image tokens) float32, on the CPU."""
        return self._recorded[: self._steps].cpu().clone()

    def _grow(self, attention: Tensor) -> None:
        """Enlarge the record as one tensor: many small tensors would fragment memory."""
        room = attention.new_empty(max(16, 2 * len(self._recorded)), len(self._place), *attention.shape)
        if len(self._recorded):
            room[: len(self._recorded)] = self._recorded
        self._recorded = room


@dataclass(frozen=True, eq=False)
class Trace:
    """An answer with the attention from each of its tokens to the picture.

    S tokens, L layers, H heads, N image tokens. The row of a token is the one that predicted it.

    Attributes:
        answer: The answer.
        prompt: The user's text; of several messages, a line each, with marks for pictures.
        image_attention: (S, L, H, N) float32, as edited by the strategy.
        gaze: Attention shift to each image token at the informative words of the question, (L, N) float32; see
            `saliency`.
        layers: 0-based decoder layers of the second axis.
        heads: 0-based heads of the third axis.
        grid: Place of each image token in the picture.
        words: Words of the answer.
        pictures: RGB, at most 1024 pixels on the longer side.
        model: Name, revision, weights' digest, dtype and device of the model.
        findings: Findings of the strategy by name: maps over image tokens, (N,), over decoder layers and heads, NaN
            in other layers, or over tokens of the answer, layers and heads; such as "saliency" of GIFT, "head gains" of
            VHR and "added layers" of DeCo. Layers or heads are 1 where there is one value for all.
        notes: Texts that the strategy made or chose, by name, such as "neutral query" of LQCD.
    """

    answer: Answer
    prompt: str
    image_attention: Tensor
    gaze: Tensor
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    grid: Grid
    words: tuple[Word, ...]
    pictures: tuple[Image.Image, ...]
    model: dict[str, str | None]
    findings: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return the beginning of the answer, and the sizes of its attention, on one line."""
        axes = zip(self.image_attention.shape, ("tokens", "layers", "heads", "image tokens"), strict=True)
        return f"Trace({shorten(self.answer.text, 40)!r}, {' x '.join(f'{size} {axis}' for size, axis in axes)})"

    @property
    def image_share(self) -> Tensor:
        """Share of attention on the pictures, (S, L, H); 1 where a layer attends to nothing else."""
        return self.image_attention.sum(dim=-1)

    def token_attention(
        self,
        token: int | Sequence[int],
        *,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        reduce: str = "mean",
    ) -> Tensor:
        """Return the attention from a token, or the mean of several, to each image token, (N,).

        Args:
            token: 0-based, counted in `answer.tokens`; negative from the end.
            layers: Decoder layers to reduce over; None: all that were traced.
            heads: Heads to reduce over; None: all that were traced.
            reduce: "mean" or "max", over layers and heads.

        Raises:
            OptionError: A token, layer or head was not traced, or there is no such reduction.
        """
        tokens, count = _indices("token", token), len(self.image_attention)
        for index in tokens:
            if not -count <= index < count:
                there = f"from {-count} to {count - 1}" if count else "left alone: the answer has no tokens"
                raise OptionError("trace", "token", index, there)
        if reduce not in ("mean", "max"):
            raise OptionError("trace", "reduce", reduce, '"mean" or "max"')
        chosen = self.image_attention[tokens]
        chosen = chosen[:, _within("layers", layers, self.layers)][:, :, _within("heads", heads, self.heads)]
        flat = chosen.flatten(1, 2)
        return (flat.mean(dim=1) if reduce == "mean" else flat.amax(dim=1)).mean(dim=0)

    def heatmap(self, token: int | Sequence[int], *, picture: int = 0, **how: Any) -> Tensor:
        """Return the heat map of a token over a picture, (rows, columns) of its finest view.

        The attention to coarser views is spread over the finest one.

        Args:
            token: As in `token_attention`.
            picture: 0-based.
            **how: As in `token_attention`.

        Raises:
            ModelError: The image tokens of this model family have no places.
            OptionError: As in `token_attention`; also if there is no such picture.
        """
        return self.spread(self.token_attention(token, **how), picture=picture)

    def spread(self, values: Tensor, *, picture: int = 0) -> Tensor:
        """Return values of image tokens, (N,), as a map over a picture; result and errors as in `heatmap`."""
        self._check_places(picture)
        return heat_map.spread(self.grid, picture, values)

    def box(self, *, picture: int = 0) -> tuple[float, float, float, float]:
        """Return the part of a picture that its maps cover: left, top, right, bottom as fractions.

        Raises:
            ModelError: As in `heatmap`.
            OptionError: There is no such picture.
        """
        self._check_places(picture)
        return heat_map.extent(self.grid, picture)

    def overlay(self, token: int | Sequence[int], *, picture: int = 0, **how: Any) -> Image.Image:
        """Draw the heat map of a token over the picture; without a grid, a strip of the tokens below it.

        Args:
            token: As in `token_attention`.
            picture: 0-based.
            **how: As in `token_attention`.
        """
        return self.overlay_of(self.token_attention(token, **how), picture=picture)

    def saliency(self, *, layers: Sequence[int] | None = None) -> Tensor:
        """Return the saliency of image tokens for the question, (N,) in [0, 1]: the map of GIFT (arXiv:2510.22067).

        It sums attention shifts at the informative words of the question, over the half of the heads that shift most,
        clipped at three deviations.

        Args:
            layers: Decoder layers to average over; None: the one of the traced layers with the largest shift.

        Raises:
            OptionError: A layer was not traced.
        """
        chosen = [int(self.gaze.sum(dim=1).argmax())] if layers is None else _within("layers", layers, self.layers)
        return scale(self.gaze[chosen].mean(dim=0))

    def overlay_of(self, values: Tensor, *, picture: int = 0) -> Image.Image:
        """Draw values of image tokens over the picture, such as a finding; otherwise as `overlay`.

        Args:
            values: (N,).
            picture: 0-based.
        """
        self._check(picture)
        if self.grid.finest(picture) == (0, 0):
            return heat_map.strip(self.pictures[picture], values[self.grid.image == picture])
        heat = heat_map.spread(self.grid, picture, values)
        return heat_map.overlay(self.pictures[picture], heat, heat_map.extent(self.grid, picture))

    def saliency_overlay(self, *, picture: int = 0, layers: Sequence[int] | None = None) -> Image.Image:
        """Draw `saliency` over the picture; without a grid, a strip of the tokens below it.

        Args:
            picture: 0-based.
            layers: As in `saliency`.
        """
        return self.overlay_of(self.saliency(layers=layers), picture=picture)

    def contact_sheet(self, *, picture: int = 0, **how: Any) -> Image.Image:
        """Draw a heat map for each content word of the answer, with the word below it.

        Args:
            picture: 0-based.
            **how: As in `token_attention`.
        """
        self._check(picture)
        words = [word for word in self.words if word.is_content] or list(self.words)
        share = self.image_share.mean(dim=(1, 2))
        cells = [
            (
                self.overlay(word.tokens, picture=picture, **how),
                f"{word.text}  {float(share[list(word.tokens)].mean()):.0%}",
            )
            for word in words
        ]
        legend = "%: share of attention on the picture"
        return heat_map.sheet(cells or [(self.pictures[picture], "(no words)")], legend=legend)

    def _repr_html_(self) -> str:
        from mmhall.display.page import trace_html

        return trace_html(self)

    def _check_places(self, picture: int) -> None:
        self._check(picture)
        if self.grid.finest(picture) == (0, 0):
            raise ModelError("this model's image tokens have no place in the picture; see trace.image_attention")

    def _check(self, picture: int) -> None:
        if picture not in range(len(self.pictures)):
            there = f"from 0 to {len(self.pictures) - 1}" if self.pictures else "left alone: the prompt has no picture"
            raise OptionError("trace", "picture", picture, there)

    def save(self, path: str | Path) -> None:
        """Write the trace to a safetensors file, metadata included.

        Raises:
            DataError: The file cannot be written.
        """
        write_fields(path, self)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace from a file.

        Raises:
            DataError: The file is missing, damaged, or no trace.
        """
        return cls(**read_fields(path))


def shrink_picture(image: Image.Image) -> Image.Image:
    """Return a copy of a picture at the size that traces store."""
    small = image.copy()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return small


def check_indices(owner: str, requested: Sequence[int] | None, existing: Sequence[int]) -> tuple[int, ...]:
    """Check the requested layers or heads and return them; by default all existing ones.

    Raises:
        OptionError: One of them does not exist, or the request is empty.
    """
    if requested is None:
        return tuple(existing)
    indices = _indices(owner, requested)
    if not set(indices) <= set(existing):
        raise OptionError("trace", owner, indices, f"among {_format_ranges(existing)}")
    return tuple(dict.fromkeys(indices))


def _indices(owner: str, requested: Any) -> list[int]:
    """Return one index or several as plain integers."""
    try:
        many = (
            list(requested) if hasattr(requested, "__iter__") and getattr(requested, "ndim", None) != 0 else [requested]
        )
        if not many or any(isinstance(index, bool) for index in many):
            raise TypeError
        return [operator.index(index) for index in many]
    except TypeError:
        raise OptionError("trace", owner, requested, "an index or several") from None


def _within(owner: str, requested: Sequence[int] | None, traced: Sequence[int]) -> list[int]:
    return [traced.index(index) for index in check_indices(owner, requested, traced)]


def _format_ranges(indices: Sequence[int]) -> str:
    """Format 0, 1, 2, 5 as "0-2, 5"."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
