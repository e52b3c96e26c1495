"""Eyes, legs and outlines that the sprites of living things share."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin

from mmhall.benchmarks.scenes.pen import INK, OUTLINE, Colour, Pen, Point, smooth

WHITE: Colour = (250, 250, 248)
PINK: Colour = (244, 158, 164)


def eye(pen: Pen, x: float, y: float, r: float) -> None:
    """Draw a dark eye with a highlight."""
    pen.circle(x, y, r, INK, None)
    pen.circle(x + 0.3 * r, y - 0.35 * r, 0.36 * r, WHITE, None)


def wide_eye(pen: Pen, x: float, y: float, r: float, iris: Colour = WHITE) -> None:
    """Draw a bright eye with a dark pupil, for dark faces."""
    pen.circle(x, y, r, iris, INK, 0.01)
    pen.circle(x, y, 0.55 * r, INK, None)


def legs(
    pen: Pen, xs: Sequence[float], top: float, bottom: float, width: float, fill: Colour, hoof: Colour | None = None
) -> None:
    """Draw straight legs with flat feet, optionally with hooves."""
    half = width / 2
    for x in xs:
        pen.rectangle(x - half, top, x + half, bottom, fill)
        if hoof is not None:
            pen.rectangle(x - half, bottom - 0.055, x + half, bottom, hoof)


def cloud(pen: Pen, x: float, y: float, rx: float, ry: float, puff: float, count: int, fill: Colour) -> None:
    """Draw an ellipse with a scalloped rim of `count` puffs."""
    angles = [2 * pi * i / count for i in range(count)]
    centres = [(x + rx * cos(angle), y + ry * sin(angle)) for angle in angles]
    for cx, cy in centres:
        pen.circle(cx, cy, puff + OUTLINE, INK, None)
    for cx, cy in centres:
        pen.circle(cx, cy, puff, fill, None)
    pen.ellipse(x, y, rx, ry, fill, None)


def mirrored(points: Sequence[Point]) -> list[Point]:
    """Return the points mirrored at the vertical middle line."""
    return [(1 - x, y) for x, y in points]


def both(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Return the points and their mirror image."""
    return list(points), mirrored(points)


def equine(grazing: bool) -> list[Point]:
    """Return the outline of a horse's body, neck and head."""
    back: list[Point] = [(0.13, 0.46), (0.24, 0.39), (0.4, 0.42)]
    belly: list[Point] = [(0.38, 0.62), (0.2, 0.65), (0.12, 0.57)]
    if grazing:
        front: list[Point] = [
            (0.52, 0.39),
            (0.68, 0.43),
            (0.8, 0.54),
            (0.88, 0.64),
            (0.94, 0.72),
            (0.95, 0.86),
            (0.93, 0.95),
            (0.85, 0.95),
            (0.83, 0.85),
            (0.79, 0.78),
            (0.75, 0.69),
            (0.66, 0.6),
            (0.56, 0.65),
        ]
    else:
        front = [
            (0.53, 0.39),
            (0.59, 0.26),
            (0.66, 0.14),
            (0.74, 0.12),
            (0.82, 0.19),
            (0.93, 0.3),
            (0.945, 0.36),
            (0.88, 0.395),
            (0.81, 0.34),
            (0.75, 0.33),
            (0.72, 0.44),
            (0.67, 0.57),
            (0.57, 0.64),
        ]
    return smooth([*back, *front, *belly], closed=True)


def equine_ear(pen: Pen, fill: Colour, grazing: bool) -> None:
    """Draw the pointed ear of a horse or a zebra."""
    if grazing:
        pen.polygon([(0.83, 0.6), (0.93, 0.52), (0.92, 0.68)], fill)
    else:
        pen.polygon([(0.655, 0.15), (0.68, 0.04), (0.745, 0.13)], fill)
