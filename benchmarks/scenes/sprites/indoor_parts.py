"""Colours and point arithmetic that the sprites of furniture and devices share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmhall.benchmarks.scenes.pen import Colour, Point

Quad = tuple[Point, Point, Point, Point]

WHITE: Colour = (252, 252, 250)
CREAM: Colour = (250, 243, 222)
GREY: Colour = (150, 156, 166)
RED: Colour = (222, 58, 52)
ORANGE: Colour = (246, 148, 40)
YELLOW: Colour = (252, 208, 56)
PINK: Colour = (244, 128, 168)


def mirror(points: Sequence[Point]) -> list[Point]:
    """Flip points left to right."""
    return [(1 - x, y) for x, y in points]


def turn(points: Sequence[Point], degrees: float, centre: Point = (0.5, 0.5)) -> list[Point]:
    """Turn points clockwise about a centre."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    cx, cy = centre
    return [(cx + c * (x - cx) - s * (y - cy), cy + s * (x - cx) + c * (y - cy)) for x, y in points]


def rounded(left: float, top: float, right: float, bottom: float, radius: float) -> list[Point]:
    """Return the outline of a rounded rectangle, to be turned or mirrored."""
    corners = (
        (right - radius, top + radius, -90),
        (right - radius, bottom - radius, 0),
        (left + radius, bottom - radius, 90),
        (left + radius, top + radius, 180),
    )
    points: list[Point] = []
    for x, y, start in corners:
        for step in range(7):
            angle = math.radians(start + 15 * step)
            points.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    return points


def at(quad: Quad, u: float, v: float) -> Point:
    """Map (u, v) of the unit square into a quad (top left, top right, bottom right, bottom left)."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = quad
    x = (1 - v) * ((1 - u) * ax + u * bx) + v * ((1 - u) * dx + u * cx)
    y = (1 - v) * ((1 - u) * ay + u * by) + v * ((1 - u) * dy + u * cy)
    return x, y


def patch(quad: Quad, left: float, top: float, right: float, bottom: float) -> Quad:
    """Return the part of a quad between the given fractions of its sides."""
    return at(quad, left, top), at(quad, right, top), at(quad, right, bottom), at(quad, left, bottom)


def square(points: Sequence[Point]) -> Quad:
    """Return four points as a quad."""
    a, b, c, d = points
    return a, b, c, d
