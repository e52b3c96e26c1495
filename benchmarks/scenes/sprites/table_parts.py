"""Colours and point arithmetic that the sprites of tableware and food share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmhall.benchmarks.scenes.pen import Colour, Point

WHITE: Colour = (255, 255, 255)
CREAM: Colour = (255, 244, 214)
RED: Colour = (222, 44, 44)
LEAF: Colour = (70, 168, 62)
PEEL_SHADE: Colour = (214, 166, 20)


def turn(points: Sequence[Point], degrees: float, stretch: float = 1.0) -> list[Point]:
    """Stretch the points sideways, then rotate them clockwise about the middle of the square."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    from_middle = [((x - 0.5) * stretch, y - 0.5) for x, y in points]
    return [(0.5 + x * cos - y * sin, 0.5 + x * sin + y * cos) for x, y in from_middle]


def mirror(points: Sequence[Point], mirrored: bool = True) -> list[Point]:
    """Swap left and right, if asked to."""
    return [(1 - x, y) if mirrored else (x, y) for x, y in points]


def profile(left: Sequence[Point]) -> list[Point]:
    """Close a left half, given from one end of the axis to the other, with its mirror image."""
    return [*left, *reversed(mirror(left))]


def oval(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> list[Point]:
    """Return an arc of an ellipse; degrees run clockwise from three o'clock."""
    angles = [math.radians(start + (end - start) * i / 40) for i in range(41)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def bar(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """Return a rectangle as points."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
