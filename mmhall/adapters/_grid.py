"""Places of image tokens in the picture, found by sending coordinate pictures through the processor.

The tiling and cropping formulas of the families are not copied. In a coordinate picture the red channel grows from left
to right, the green channel from top to bottom, and the blue channel is the number of the picture. The family's own
processor reads it, and also a black and a white picture of the same size. For each pixel, (coordinates - black) /
(white - black) undoes any normalisation; where white equals black, the processor has padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import LongTensor, Tensor


@dataclass(frozen=True, slots=True)
class PixelOrigins:
    """Point of the picture that each pixel of a processor's output shows; NaN: padding.

    Attributes:
        x: (tiles, height, width) fraction of the picture's width.
        y: (tiles, height, width) fraction of its height.
        image: (tiles, height, width) 0-based picture.
    """

    x: Tensor
    y: Tensor
    image: Tensor


@dataclass(frozen=True, slots=True)
class Boxes:
    """Rectangles in pictures, one for each of N tokens or patches.

    Attributes:
        edges: (N, 4) left, top, right, bottom as fractions of the picture; NaN: no place.
        image: (N,) 0-based picture; NaN: no place.
        view: (N,) number of the view.
    """

    edges: Tensor
    image: Tensor
    view: Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """Places of the N image tokens of one prompt, in prompt order.

    A picture may be read in several views: as a whole and, finer, in tiles. Each view has its own rows and columns.

    Attributes:
        image: (N,) 0-based picture.
        view: (N,) 0-based view of that picture; -1: a token without a place, such as a line break.
        row: (N,) 0-based row in the view; -1: no place.
        column: (N,) 0-based column in the view; -1: no place.
        edges: (N, 4) left, top, right, bottom as fractions of the picture; NaN: no place. None: no grid at all.
    """

    image: LongTensor
    view: LongTensor
    row: LongTensor
    column: LongTensor
    edges: Tensor | None

    @classmethod
    def of(cls, boxes: Boxes, pictures: int) -> Grid:
        """Sort boxes into rows and columns, view by view."""
        count = len(boxes.edges)
        has_place = ~boxes.edges.isnan().any(dim=1)
        image = torch.full((count,), -1, dtype=torch.long)
        has_image = ~boxes.image.isnan()
        image[has_image] = boxes.image[has_image].round().long().clamp(0, max(0, pictures - 1))
        for index in range(count):  # a line break belongs to the picture before it
            if image[index] < 0:
                image[index] = image[index - 1] if index else 0
        view, row, column = (torch.full((count,), -1, dtype=torch.long) for _ in range(3))
        for picture in range(pictures):
            for number, key in enumerate(boxes.view[has_place & (image == picture)].unique().tolist()):
                chosen = has_place & (image == picture) & (boxes.view == key)
                view[chosen] = number
                row[chosen] = _rank_intervals(boxes.edges[chosen][:, 1], boxes.edges[chosen][:, 3])
                column[chosen] = _rank_intervals(boxes.edges[chosen][:, 0], boxes.edges[chosen][:, 2])
        return cls(image, view, row, column, boxes.edges)  # type: ignore[arg-type]

    def finest(self, picture: int) -> tuple[int, int]:
        """Return the numbers of rows and columns of a picture's finest view; (0, 0) without a grid."""
        shapes = []
        for view in self.view[(self.image == picture) & (self.view >= 0)].unique().tolist():
            chosen = (self.image == picture) & (self.view == view)
            shapes.append((int(self.row[chosen].max()) + 1, int(self.column[chosen].max()) + 1))
        return max(shapes, key=lambda shape: shape[0] * shape[1], default=(0, 0))


def without_places(count: int, pictures: int) -> Grid:
    """Return the grid of tokens without places, divided evenly among the pictures."""
    image = torch.arange(count) * max(1, pictures) // max(1, count)
    view, row, column = (torch.full((count,), -1, dtype=torch.long) for _ in range(3))
    return Grid(image, view, row, column, None)  # type: ignore[arg-type]


def coordinate_pictures(images: Sequence[Image.Image]) -> tuple[tuple[Image.Image, ...], ...]:
    """Return black pictures, white pictures and coordinate pictures of the same sizes."""
    black, white, coordinates = [], [], []
    random = np.random.default_rng(0)
    for number, image in enumerate(images):
        width, height = image.size
        black.append(Image.new("RGB", image.size, "black"))
        white.append(Image.new("RGB", image.size, "white"))
        pixels = np.empty((height, width, 3), dtype=np.float32)
        pixels[:, :, 0] = (np.arange(width) + 0.5) / width
        pixels[:, :, 1] = ((np.arange(height) + 0.5) / height)[:, None]
        pixels[:, :, 2] = (number + 1) / (len(images) + 1)
        # random rounding, so that means are more precise than the 256 levels of a channel
        noise = random.random(pixels.shape, dtype=np.float32)
        coordinates.append(Image.fromarray((pixels * 255 + noise).astype(np.uint8)))
    return tuple(black), tuple(white), tuple(coordinates)


def decode_origins(black: Tensor, white: Tensor, coordinates: Tensor, pictures: int) -> PixelOrigins:
    """Compute the origin of each pixel from the processor's outputs for the three kinds of pictures.

    Args:
        black: Output for black pictures, (tiles, 3, height, width).
        white: Output for white pictures, same shape.
        coordinates: Output for coordinate pictures, same shape.
        pictures: Number of pictures.
    """
    black, white, coordinates = black.float().cpu(), white.float().cpu(), coordinates.float().cpu()
    span = white - black
    inside = (span.abs() > 0.5 * span.abs().max()).all(dim=1)
    at = ((coordinates - black) / torch.where(span == 0, 1.0, span)).masked_fill(~inside[:, None], torch.nan)
    return PixelOrigins(at[:, 0], at[:, 1], (at[:, 2] * (pictures + 1)).round() - 1)


def block_side(origins: PixelOrigins, count: int) -> int | None:
    """Return the side, in pixels, of square blocks that divide all tiles into `count` blocks, or None."""
    tiles, height, width = origins.x.shape
    side = round((tiles * height * width / max(1, count)) ** 0.5)
    fits = side > 0 and height % side == 0 and width % side == 0
    return side if fits and tiles * (height // side) * (width // side) == count else None


def raster(origins: PixelOrigins, side: int) -> Boxes:
    """Divide tiles into square pixel blocks and return their boxes, tile by tile and row by row.

    Tiles that do not overlap form one view; a tile that overlaps them, such as the whole picture, is in another view.
    """
    tiles, height, width = origins.x.shape
    blocks = (tiles, height // side, side, width // side, side)
    inside = ~origins.x.isnan().view(blocks)
    steps = torch.stack([_step(origins.x.nanmean(dim=1)), _step(origins.y.nanmean(dim=2))], dim=1)
    middle = torch.stack([part.reshape(blocks).nanmean(dim=(2, 4)) for part in (origins.x, origins.y)], dim=-1)
    size = torch.stack([inside.any(dim=2).sum(dim=-1), inside.any(dim=4).sum(dim=2)], dim=-1)
    half = steps[:, None, None] * size / 2
    edges = torch.cat([middle - half, middle + half], dim=-1).clamp(0, 1).flatten(0, 2)
    image = origins.image.reshape(blocks).nanmean(dim=(2, 4)).round().flatten()
    view = _assign_views(origins, steps)[:, None, None].expand(blocks[0], blocks[1], blocks[3]).flatten()
    return Boxes(edges, image, view)


def _assign_views(origins: PixelOrigins, steps: Tensor) -> Tensor:
    """Assign tiles to views, (tiles,): the largest first, each to the first view without an overlapping tile."""
    x, y = origins.x.flatten(1), origins.y.flatten(1)
    low = torch.stack([part.nan_to_num(2).amin(dim=1) for part in (x, y)], dim=1) - steps / 2
    high = torch.stack([part.nan_to_num(-1).amax(dim=1) for part in (x, y)], dim=1) + steps / 2
    area = (high - low).clamp_min(0).prod(dim=1)
    image = origins.image.flatten(1).nanmedian(dim=1).values
    shared = (torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)).clamp_min(0).prod(dim=2)
    shows = (image[:, None] == image) & (shared > 0.5 * area[:, None])
    view = torch.full((len(area),), -1)
    for tile in area.argsort(descending=True, stable=True).tolist():
        taken = set(view[shows[tile]].tolist())
        view[tile] = next(number for number in range(len(area)) if number not in taken)
    return view


def _step(line: Tensor) -> Tensor:
    """Return the distance of neighbouring pixels of each tile in the picture, (tiles, pixels) to (tiles,)."""
    known = ~line.isnan()
    span = line.nan_to_num(-1).amax(dim=1) - line.nan_to_num(2).amin(dim=1)
    count = known.sum(dim=1)
    steps = torch.where(count > 1, span / (count - 1).clamp_min(1), torch.nan)
    steps = torch.where((count > 1) & (span < 1e-3), 1 / count, steps)  # a picture that is one pixel wide
    usual = steps.nanmedian()
    return steps.nan_to_num(1.0 if usual.isnan() else float(usual))


def _rank_intervals(low: Tensor, high: Tensor) -> Tensor:
    """Rank intervals by their middles; middles closer than 0.4 of the median interval get the same rank."""
    middle, tolerance = (low + high) / 2, 0.4 * float((high - low).median())
    order = middle.argsort()
    jumps = torch.cat([torch.zeros(1), (middle[order].diff() > tolerance).float()])
    ranks = torch.empty_like(order)
    ranks[order] = jumps.cumsum(0).long()
    return ranks
