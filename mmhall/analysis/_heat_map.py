"""Heat maps of attention over a picture, and contact sheets of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmhall.adapters import Grid

_ANCHORS = np.array([(20, 11, 52), (106, 23, 110), (188, 55, 84), (243, 121, 24), (252, 255, 164)], dtype=np.float32)
_VEIL, _STRONGEST = 0.35, 0.55  # opacity of the coldest spot, and what the hottest adds to it
_CELL, _MARGIN, _CAPTION = 240, 12, 26


def extent(grid: Grid, picture: int) -> tuple[float, float, float, float]:
    """Return the part of a picture that its image tokens cover: left, top, right, bottom as fractions."""
    assert grid.edges is not None
    edges = grid.edges[(grid.image == picture) & (grid.view >= 0)]
    left, top = edges[:, :2].amin(dim=0).tolist()
    right, bottom = edges[:, 2:].amax(dim=0).tolist()
    return left, top, right, bottom


def spread(grid: Grid, picture: int, weights: Tensor) -> Tensor:
    """Spread the weights of image tokens evenly over their boxes.

    Args:
        grid: Places of the image tokens.
        picture: 0-based; tokens of other pictures and without a place are left out.
        weights: (N,).

    Returns:
        (rows, columns) of the picture's finest view, over its `extent`.
    """
    assert grid.edges is not None
    chosen = (grid.image == picture) & (grid.view >= 0)
    rows, columns = grid.finest(picture)
    left, top, right, bottom = extent(grid, picture)
    edges = grid.edges[chosen]
    across = _overlaps(edges[:, 0], edges[:, 2], left, right, columns)
    down = _overlaps(edges[:, 1], edges[:, 3], top, bottom, rows)
    return torch.einsum("n,nr,nc->rc", weights[chosen].float(), down, across)


def overlay(picture: Image.Image, heat: Tensor, part: tuple[float, float, float, float]) -> Image.Image:
    """Draw a heat map over the part of a picture it covers, scaled to its largest value.

    Args:
        picture: RGB.
        heat: (rows, columns), >= 0.
        part: Left, top, right, bottom as fractions.
    """
    width, height = picture.size
    box = (round(part[0] * width), round(part[1] * height), round(part[2] * width), round(part[3] * height))
    box = (box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1))
    levels = Image.fromarray(_levels(heat)).resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC)
    level = np.asarray(levels, dtype=np.float32).clip(0, 1)[:, :, None]
    ground = picture.convert("L").convert("RGB").crop(box)
    opacity = _VEIL + _STRONGEST * level
    mixed = np.asarray(ground, dtype=np.float32) * (1 - opacity) + _colours(level[:, :, 0]) * opacity
    drawn = picture.convert("RGB")
    drawn.paste(Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8)), box[:2])
    return drawn


def strip(picture: Image.Image, weights: Tensor) -> Image.Image:
    """Draw weights without a place in the picture as a strip of cells under it."""
    height = max(8, picture.height // 12)
    cells = Image.fromarray(_colours(_levels(weights[None])).round().astype(np.uint8))
    drawn = Image.new("RGB", (picture.width, picture.height + height + 2), "white")
    drawn.paste(picture, (0, 0))
    drawn.paste(cells.resize((picture.width, height), Image.Resampling.NEAREST), (0, picture.height + 2))
    return drawn


def sheet(cells: Sequence[tuple[Image.Image, str]], columns: int = 5, legend: str = "") -> Image.Image:
    """Arrange pictures with captions in rows, with a legend below."""
    scale = _CELL / max(max(image.size) for image, _ in cells)
    sizes = [(max(1, round(image.width * scale)), max(1, round(image.height * scale))) for image, _ in cells]
    wide, high = max(width for width, _ in sizes), max(height for _, height in sizes)
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    step = max(wide, 120) + _MARGIN, high + _CAPTION + _MARGIN
    below = _CAPTION if legend else 0
    drawn = Image.new("RGB", (columns * step[0] + _MARGIN, rows * step[1] + _MARGIN + below), "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(size=15)
    for number, ((image, caption), size) in enumerate(zip(cells, sizes, strict=True)):
        x = _MARGIN + number % columns * step[0]
        y = _MARGIN + number // columns * step[1]
        drawn.paste(image.resize(size, Image.Resampling.LANCZOS), (x, y))
        draw.text((x, y + size[1] + 3), caption, fill="black", font=font)
    draw.text((_MARGIN, drawn.height - below), legend, fill="grey", font=ImageFont.load_default(size=13))
    return drawn


def _overlaps(low: Tensor, high: Tensor, start: float, end: float, cells: int) -> Tensor:
    """Return the share of each interval in each of equally wide cells, (N, cells)."""
    borders = torch.linspace(start, end, cells + 1)
    shared = torch.minimum(high[:, None], borders[None, 1:]) - torch.maximum(low[:, None], borders[None, :-1])
    shared = shared.clamp_min(0)
    return shared / shared.sum(dim=1, keepdim=True).clamp_min(1e-9)


def _levels(heat: Tensor) -> np.ndarray:
    values = heat.float().numpy()
    top = values.max(initial=0.0)
    return values / top if top > 0 else np.zeros_like(values)


def _colours(level: np.ndarray) -> np.ndarray:
    """Map levels in [0, 1] to colours from dark to bright, (..., 3) float in [0, 255]."""
    at = level * (len(_ANCHORS) - 1)
    return np.stack([np.interp(at, np.arange(len(_ANCHORS)), _ANCHORS[:, i]) for i in range(3)], axis=-1)
