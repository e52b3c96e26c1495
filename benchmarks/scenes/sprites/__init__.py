"""Every drawing a scene can hold: 57 COCO categories and ten things that are no category.

Each module holds a table from name to (drawing function, number of variants), except `*_parts`:
those hold what two or more of the others share.
"""

from __future__ import annotations

from functools import cache

from PIL import Image

from mmhall.benchmarks.scenes.pen import Pen
from mmhall.benchmarks.scenes.sprites import (
    devices,
    farm,
    food,
    furniture,
    outdoor,
    people_pets,
    savanna,
    scenery,
    street,
    tableware,
    vehicles,
)

CATEGORY_SPRITES = {
    **vehicles.SPRITES,
    **street.SPRITES,
    **people_pets.SPRITES,
    **farm.SPRITES,
    **savanna.SPRITES,
    **tableware.SPRITES,
    **food.SPRITES,
    **furniture.SPRITES,
    **devices.SPRITES,
    **outdoor.SPRITES,
}
SCENERY_SPRITES = scenery.SPRITES
_SIZE = 192


def sprite(name: str, variant: int) -> Image.Image:
    """Return a category's drawing, cut to its outline.

    Args:
        name: Category name.
        variant: Any integer; taken modulo the number of variants.

    Returns:
        RGBA picture, at most 192 pixels a side.
    """
    return _drawn(name, variant % CATEGORY_SPRITES[name][1])


def variants(name: str) -> int:
    """Return how many drawings a category has."""
    return CATEGORY_SPRITES[name][1]


def scenery_sprite(variant: int) -> Image.Image:
    """Return a drawing of something that is no category; any integer picks one."""
    names = tuple(SCENERY_SPRITES)
    name = names[variant % len(names)]
    return _drawn(name, variant // len(names) % SCENERY_SPRITES[name][1])


@cache
def _drawn(name: str, variant: int) -> Image.Image:
    draw, _ = CATEGORY_SPRITES.get(name) or SCENERY_SPRITES[name]
    pen = Pen(_SIZE)
    draw(pen, variant)
    image = pen.image()
    return image.crop(image.getchannel("A").getbbox())
