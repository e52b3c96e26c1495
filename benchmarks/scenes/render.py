"""Rendering of a planned scene, with the object on top of every pixel.

The truth is exact: boxes, areas and visible shares are counted on these pixels instead of taken from
the plan, and the vision tower of the embedded model learns from it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

from mmhall.benchmarks.scenes.plan import Placed, Plan, Visibility
from mmhall.benchmarks.scenes.sprites import scenery_sprite, sprite

SIZE = 224
_READABLE = frozenset({"stop sign"})  # never mirrored
DYES: dict[str, tuple[int, int, int]] = {
    "red": (222, 42, 42),
    "blue": (48, 88, 222),
    "green": (36, 168, 64),
    "yellow": (244, 214, 40),
}
"""Colours that a whole object can have, by name, RGB."""
_DARKEST = 0.4  # brightness of black parts of a dyed object
_SOLID = 96  # alpha above which a pixel belongs to the sprite


@dataclass(frozen=True, slots=True)
class VisibleObject:
    """One object as it is visible in the picture.

    Attributes:
        name: Category.
        visibility: clear, small, faint or covered.
        box: Left, top, width, height of its visible pixels, in pixels.
        area: Number of visible pixels.
        visible: Visible pixels over all its pixels, fraction in (0, 1].
    """

    name: str
    visibility: Visibility
    box: tuple[int, int, int, int]
    area: int
    visible: float


@dataclass(frozen=True, slots=True)
class Rendered:
    """A painted scene.

    Attributes:
        image: RGB, 224 x 224.
        owner: Index into the plan's objects of the pixel's owner, -1 for background, (224, 224) int8.
        objects: Every planned object with visible pixels, in the plan's order.
    """

    image: Image.Image
    owner: npt.NDArray[np.int8]
    objects: tuple[VisibleObject, ...]


def render(plan: Plan) -> Rendered:
    """Paint a scene, back to front."""
    rng = random.Random(plan.paint)
    image = _background(plan, rng)
    owner = np.full((SIZE, SIZE), -1, np.int8)
    whole: list[int] = []
    for thing in plan.scenery:
        mask = _paste(image, _pose(scenery_sprite(thing.variant), thing), thing)
        if thing.cover:
            _cover(image, mask, thing.cover, rng)
    for index, placed in enumerate(plan.objects):
        mask = _paste(image, _pose(sprite(placed.name, placed.variant), placed), placed)
        owner[mask] = index
        whole.append(int(mask.sum()))
        if placed.cover:
            owner[_cover(image, mask, placed.cover, rng)] = -1
    visible = tuple(
        s for index, placed in enumerate(plan.objects) if (s := _measure(owner == index, placed, whole[index]))
    )
    return Rendered(image, owner, visible)


def _pose(drawing: Image.Image, placed: Placed) -> Image.Image:
    """Scale, mirror and tilt a drawing so that its longer side has the planned length."""
    if placed.mirrored and placed.name not in _READABLE:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if placed.dye:
        drawing = _dyed(drawing, DYES[placed.dye])
    drawing = drawing.rotate(placed.tilt, Image.Resampling.BICUBIC, expand=True)
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    scale = placed.side * SIZE / max(drawing.size)
    size = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
    drawing = drawing.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if placed.opacity < 1:
        drawing.putalpha(drawing.getchannel("A").point(lambda a: round(a * placed.opacity)))
    return drawing


def _dyed(drawing: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Give a drawing one hue; dark parts stay darker than bright ones."""
    darkest = tuple(round(_DARKEST * part) for part in colour)
    dyed = ImageOps.colorize(drawing.convert("L"), darkest, colour)
    dyed.putalpha(drawing.getchannel("A"))
    return dyed


def _paste(image: Image.Image, drawing: Image.Image, placed: Placed) -> npt.NDArray[np.bool_]:
    """Paste a drawing and return which pixels it took, (SIZE, SIZE)."""
    left = round(min(max(placed.x * SIZE - drawing.width / 2, 0), SIZE - drawing.width))
    top = round(min(max(placed.y * SIZE - drawing.height / 2, 0), SIZE - drawing.height))
    image.paste(drawing, (left, top), drawing)
    mask = np.zeros((SIZE, SIZE), bool)
    alpha = np.asarray(drawing.getchannel("A"))
    mask[top : top + drawing.height, left : left + drawing.width] = alpha > _SOLID * placed.opacity
    return mask


def _cover(image: Image.Image, mask: npt.NDArray[np.bool_], share: float, rng: random.Random) -> npt.NDArray[np.bool_]:
    """Paint a panel over a share of an object's box, from one side; return the panel's pixels."""
    left, top, width, height = _box(mask)
    right, bottom = left + width, top + height
    side = rng.choice(("left", "right", "bottom"))
    margin = 3
    box = [left - margin, top - margin, right + margin, bottom + margin]
    if side == "left":
        box[2] = left + round(width * share)
    elif side == "right":
        box[0] = right - round(width * share)
    else:
        box[1] = bottom - round(height * share)
    colour = rng.choice(((120, 104, 92), (150, 158, 150), (92, 100, 116), (176, 160, 132)))
    draw = ImageDraw.Draw(image)
    draw.rectangle(box, fill=colour, outline=(60, 56, 56), width=2)
    panel = np.zeros_like(mask)
    panel[max(0, box[1]) : box[3] + 1, max(0, box[0]) : box[2] + 1] = True
    return panel


def _measure(owned: npt.NDArray[np.bool_], placed: Placed, whole: int) -> VisibleObject | None:
    area = int(owned.sum())
    if not area:
        return None
    return VisibleObject(placed.name, placed.visibility, _box(owned), area, area / whole)


def _box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def _background(plan: Plan, rng: random.Random) -> Image.Image:
    """Paint the place: its two colours, its pattern, and a few translucent patches."""
    top, bottom = (tuple(min(255, max(0, c + rng.randint(-16, 16))) for c in tint) for tint in plan.place.tints)
    ramp = np.linspace(0, 1, SIZE)[:, None]
    if plan.place.pattern == "horizon":
        ramp = np.clip((ramp - rng.uniform(0.35, 0.6)) * 30, 0, 1) * 0.85 + 0.15 * ramp
    colours = (1 - ramp) * np.array(top) + ramp * np.array(bottom)  # (SIZE, 3)
    image = Image.fromarray(np.repeat(colours[:, None].astype(np.uint8), SIZE, axis=1))
    draw = ImageDraw.Draw(image, "RGBA")
    step = rng.randint(22, 38)
    if plan.place.pattern in ("tiles", "planks"):
        for y in range(rng.randint(0, step), SIZE, step):
            draw.line([0, y, SIZE, y], fill=(0, 0, 0, 34), width=2)
    if plan.place.pattern in ("tiles", "stripes"):
        for x in range(rng.randint(0, step), SIZE, step):
            draw.line([x, 0, x, SIZE], fill=(0, 0, 0, 30), width=2)
    for _ in range(rng.randint(0, 4)):
        x, y, r = rng.randint(0, SIZE), rng.randint(0, SIZE), rng.randint(12, 54)
        shade = rng.choice((0, 255))
        draw.ellipse([x - r, y - r // 2, x + r, y + r // 2], fill=(shade, shade, shade, rng.randint(10, 34)))
    return image
