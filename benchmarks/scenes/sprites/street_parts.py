"""Colours and point arithmetic that the sprites of vehicles and street furniture share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmhall.benchmarks.scenes.pen import Colour, Point

WHITE: Colour = (250, 250, 246)
TYRE: Colour = (48, 46, 54)
STEEL: Colour = (196, 202, 210)
GREY: Colour = (120, 126, 136)
YELLOW: Colour = (255, 208, 40)
WOOD: Colour = (184, 116, 58)


def turned(points: Sequence[Point], degrees: float, x: float = 0.5, y: float = 0.5) -> list[Point]:
    """Rotate points clockwise around (x, y)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(x + c * (px - x) - s * (py - y), y + s * (px - x) + c * (py - y)) for px, py in points]
