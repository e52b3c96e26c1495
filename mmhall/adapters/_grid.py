"""From image tokens to places in the picture.

No tiling or cropping formula of any family is copied. Pictures that hold their own coordinates
(the red channel grows from left to right, the green one from top to bottom, the blue one tells which
picture it is) go through the family's own processor beside an all-black and an all-white one. Pixel
for pixel, (told - black) / (white - black) undoes any normalisation, and where white equals black the
processor has padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import LongTensor, Tensor


@dataclass(frozen=True, slots=True)
class Told:
    """Which point of which picture each pixel of a processor's output shows; NaN: padding.

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
    """Rectangles of pictures, one for each of N tokens or patches.

    Attributes:
        edges: (N, 4) left, top, right, bottom as fractions of the picture; NaN: nowhere in it.
        image: (N,) 0-based picture; NaN: nowhere.
        view: (N,) number of the raster it belongs to.
    """

    edges: Tensor
    image: Tensor
    view: Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the N image tokens of one prompt look, in prompt order.

    A picture may be read in several views: as a whole and, finer, in tiles. Each view is a raster of its own.

    Attributes:
        image: (N,) 0-based picture.
        view: (N,) 0-based view of that picture; -1: a token that stands for no place, such as a line break.
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
        somewhere = ~boxes.edges.isnan().any(dim=1)
        image = torch.full((count,), -1, dtype=torch.long)
        owned = ~boxes.image.isnan()
        image[owned] = boxes.image[owned].round().long().clamp(0, max(0, pictures - 1))
        for index in range(count):  # a line break belongs to the picture before it
            if image[index] < 0:
                image[index] = image[index - 1] if index else 0
        view, row, column = (torch.full((count,), -1, dtype=torch.long) for _ in range(3))
        for picture in range(pictures):
            for number, key in enumerate(boxes.view[somewhere & (image == picture)].unique().tolist()):
                chosen = somewhere & (image == picture) & (boxes.view == key)
                view[chosen] = number
                row[chosen] = _ranks(boxes.edges[chosen][:, 1], boxes.edges[chosen][:, 3])
                column[chosen] = _ranks(boxes.edges[chosen][:, 0], boxes.edges[chosen][:, 2])
        return cls(image, view, row, column, boxes.edges)  # type: ignore[arg-type]

    def finest(self, picture: int) -> tuple[int, int]:
        """Return rows and columns of a picture's finest view; (0, 0): it has no grid."""
        shapes = []
        for view in self.view[(self.image == picture) & (self.view >= 0)].unique().tolist():
            chosen = (self.image == picture) & (self.view == view)
            shapes.append((int(self.row[chosen].max()) + 1, int(self.column[chosen].max()) + 1))
        return max(shapes, key=lambda shape: shape[0] * shape[1], default=(0, 0))


def nowhere(count: int, pictures: int) -> Grid:
    """Return the grid of tokens without places, shared evenly among the pictures."""
    image = torch.arange(count) * max(1, pictures) // max(1, count)
    view, row, column = (torch.full((count,), -1, dtype=torch.long) for _ in range(3))
    return Grid(image, view, row, column, None)  # type: ignore[arg-type]


def tell_places(images: Sequence[Image.Image]) -> tuple[tuple[Image.Image, ...], ...]:
    """Return black, white and coordinate-telling pictures of the same sizes."""
    black, white, told = [], [], []
    random = np.random.default_rng(0)
    for number, image in enumerate(images):
        width, height = image.size
        black.append(Image.new("RGB", image.size, "black"))
        white.append(Image.new("RGB", image.size, "white"))
        pixels = np.empty((height, width, 3), dtype=np.float32)
        pixels[:, :, 0] = (np.arange(width) + 0.5) / width
        pixels[:, :, 1] = ((np.arange(height) + 0.5) / height)[:, None]
        pixels[:, :, 2] = (number + 1) / (len(images) + 1)
        # rounded up or down at random, so that means are finer than the 256 steps of a channel
        told.append(Image.fromarray((pixels * 255 + random.random(pixels.shape, dtype=np.float32)).astype(np.uint8)))
    return tuple(black), tuple(white), tuple(told)


def read_places(black: Tensor, white: Tensor, told: Tensor, pictures: int) -> Told:
    """Read where each pixel is from.

    Args:
        black: What the processor made of black pictures, (tiles, 3, height, width).
        white: The same of white ones.
        told: The same of telling ones.
        pictures: How many there are.
    """
    black, white, told = black.float().cpu(), white.float().cpu(), told.float().cpu()
    span = white - black
    inside = (span.abs() > 0.5 * span.abs().max()).all(dim=1)
    at = ((told - black) / torch.where(span == 0, 1.0, span)).masked_fill(~inside[:, None], torch.nan)
    return Told(at[:, 0], at[:, 1], (at[:, 2] * (pictures + 1)).round() - 1)


def block_side(told: Told, count: int) -> int | None:
    """Return the side of the square blocks of pixels that cut all tiles into `count`; None: no side does."""
    tiles, height, width = told.x.shape
    side = round((tiles * height * width / max(1, count)) ** 0.5)
    fits = side > 0 and height % side == 0 and width % side == 0
    return side if fits and tiles * (height // side) * (width // side) == count else None


def raster(told: Told, side: int) -> Boxes:
    """Cut tiles into square blocks of pixels: boxes tile by tile, row by row.

    Tiles that lie side by side make up one view; a tile over them, as of the whole picture, is another.
    """
    tiles, height, width = told.x.shape
    blocks = (tiles, height // side, side, width // side, side)
    inside = ~told.x.isnan().view(blocks)
    steps = torch.stack([_step(told.x.nanmean(dim=1)), _step(told.y.nanmean(dim=2))], dim=1)
    middle = torch.stack([part.reshape(blocks).nanmean(dim=(2, 4)) for part in (told.x, told.y)], dim=-1)
    size = torch.stack([inside.any(dim=2).sum(dim=-1), inside.any(dim=4).sum(dim=2)], dim=-1)
    half = steps[:, None, None] * size / 2
    edges = torch.cat([middle - half, middle + half], dim=-1).clamp(0, 1).flatten(0, 2)
    image = told.image.reshape(blocks).nanmean(dim=(2, 4)).round().flatten()
    view = _views(told, steps)[:, None, None].expand(blocks[0], blocks[1], blocks[3]).flatten()
    return Boxes(edges, image, view)


def _views(told: Told, steps: Tensor) -> Tensor:
    """Sort tiles into views, (tiles,): from the largest down, each into the first that does not show its part."""
    x, y = told.x.flatten(1), told.y.flatten(1)
    low = torch.stack([part.nan_to_num(2).amin(dim=1) for part in (x, y)], dim=1) - steps / 2
    high = torch.stack([part.nan_to_num(-1).amax(dim=1) for part in (x, y)], dim=1) + steps / 2
    area = (high - low).clamp_min(0).prod(dim=1)
    image = told.image.flatten(1).nanmedian(dim=1).values
    shared = (torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)).clamp_min(0).prod(dim=2)
    shows = (image[:, None] == image) & (shared > 0.5 * area[:, None])
    view = torch.full((len(area),), -1)
    for tile in area.argsort(descending=True, stable=True).tolist():
        taken = set(view[shows[tile]].tolist())
        view[tile] = next(number for number in range(len(area)) if number not in taken)
    return view


def _step(line: Tensor) -> Tensor:
    """Return how far apart neighbouring pixels of each tile are in the picture, (tiles, pixels) to (tiles,)."""
    known = ~line.isnan()
    span = line.nan_to_num(-1).amax(dim=1) - line.nan_to_num(2).amin(dim=1)
    count = known.sum(dim=1)
    steps = torch.where(count > 1, span / (count - 1).clamp_min(1), torch.nan)
    steps = torch.where((count > 1) & (span < 1e-3), 1 / count, steps)  # a picture one pixel wide: it is all of it
    usual = steps.nanmedian()
    return steps.nan_to_num(1.0 if usual.isnan() else float(usual))


def _ranks(low: Tensor, high: Tensor) -> Tensor:
    """Number intervals by their middles; middles nearer than 0.4 of a usual interval are one."""
    middle, apart = (low + high) / 2, 0.4 * float((high - low).median())
    order = middle.argsort()
    jumps = torch.cat([torch.zeros(1), (middle[order].diff() > apart).float()])
    ranks = torch.empty_like(order)
    ranks[order] = jumps.cumsum(0).long()
    return ranks
