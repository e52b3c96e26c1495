"""Sprites of things carried, flown or played with outdoors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from mmhall.benchmarks.scenes.pen import INK, Colour, Drawing, Pen, Point, smooth

WHITE: Colour = (250, 248, 242)
METAL: Colour = (196, 202, 210)
DARK: Colour = (62, 60, 70)
SAND: Colour = (240, 206, 130)
TENNIS_YELLOW: Colour = (214, 238, 52)

# Body, front pocket, straps; then degrees of tilt.
BACKPACKS: tuple[tuple[Colour, Colour, Colour, float], ...] = (
    ((226, 62, 54), (250, 190, 54), (122, 34, 40), 0),
    ((44, 112, 208), (118, 184, 244), (28, 52, 112), -10),
    ((64, 158, 82), (238, 214, 120), (122, 78, 42), 0),
    ((246, 148, 42), (92, 66, 140), (92, 66, 140), 10),
    ((146, 78, 188), (246, 150, 196), (76, 40, 108), 0),
)

# The two alternating segment colours, the handle; then degrees of tilt.
UMBRELLAS: tuple[tuple[Colour, Colour, Colour, float], ...] = (
    ((224, 48, 52), (250, 246, 236), (122, 74, 40), 0),
    ((40, 104, 210), (252, 212, 62), (40, 42, 56), 24),
    ((122, 70, 184), (246, 140, 194), (122, 74, 40), -24),
    ((38, 164, 120), (250, 246, 236), (40, 42, 56), 0),
    ((246, 136, 36), (254, 222, 92), (122, 74, 40), 14),
)

# Shell, ridges, corner guards; then degrees of tilt.
SUITCASES: tuple[tuple[Colour, Colour, Colour, float], ...] = (
    ((222, 62, 60), (166, 36, 42), (250, 206, 82), 0),
    ((36, 150, 178), (20, 98, 124), (236, 240, 240), 18),
    ((246, 188, 46), (200, 136, 22), (96, 66, 44), 0),
    ((238, 116, 166), (190, 64, 120), (250, 236, 240), -18),
    ((70, 88, 166), (42, 54, 116), (214, 220, 232), 0),
)

# The four panels, the bows; then whether it flies to the left, and its tail's swing.
KITES: tuple[tuple[Colour, Colour, Colour, Colour, Colour, bool, float], ...] = (
    ((228, 50, 54), (254, 208, 52), (44, 120, 214), (62, 176, 90), (228, 50, 54), False, 1.0),
    ((44, 120, 214), (120, 200, 250), (120, 200, 250), (44, 120, 214), (250, 134, 40), True, 1.0),
    ((250, 134, 40), (254, 218, 70), (254, 218, 70), (250, 134, 40), (150, 66, 180), False, -1.0),
    ((238, 92, 160), (250, 246, 236), (250, 246, 236), (238, 92, 160), (46, 170, 160), True, -1.0),
    ((62, 176, 90), (250, 246, 236), (228, 50, 54), (62, 176, 90), (254, 208, 52), False, 1.0),
    ((134, 70, 190), (254, 208, 52), (254, 208, 52), (134, 70, 190), (228, 50, 54), True, 1.0),
)

# Frame, grip; then degrees of tilt.
RACKETS: tuple[tuple[Colour, Colour, float], ...] = (
    ((222, 46, 50), (52, 50, 62), 38),
    ((38, 110, 214), (240, 240, 236), -38),
    ((38, 38, 48), (222, 60, 50), 30),
    ((46, 160, 84), (122, 74, 40), -30),
    ((244, 132, 32), (44, 60, 120), 45),
)

BASKETBALL: Colour = (236, 122, 38)
VOLLEYBALL: tuple[Colour, Colour, Colour] = ((252, 212, 64), (46, 98, 190), (250, 248, 242))
BEACH_BALL: tuple[Colour, ...] = (
    (228, 50, 54),
    (250, 248, 242),
    (44, 120, 214),
    (250, 248, 242),
    (254, 208, 52),
    (250, 248, 242),
)

# Rim, ring, middle, side; then degrees of tilt.
FRISBEES: tuple[tuple[Colour, Colour, Colour, Colour, float], ...] = (
    ((232, 54, 52), (254, 214, 66), (232, 54, 52), (164, 30, 36), -14),
    ((42, 120, 218), (250, 248, 242), (248, 138, 40), (24, 74, 148), 14),
    ((70, 190, 84), (254, 224, 76), (70, 190, 84), (34, 126, 52), 0),
    ((250, 140, 32), (92, 62, 168), (254, 222, 84), (188, 92, 12), -22),
    ((134, 70, 200), (186, 240, 90), (134, 70, 200), (84, 36, 136), 10),
)

# Board, bands, middle line; then degrees of tilt and the pattern.
SURFBOARDS: tuple[tuple[Colour, Colour, Colour, float, str], ...] = (
    ((250, 216, 86), (228, 62, 54), (250, 248, 242), 22, "bands"),
    ((56, 184, 206), (250, 248, 242), (24, 88, 140), 0, "bands"),
    ((250, 246, 234), (240, 96, 60), (36, 140, 170), -22, "ends"),
    ((240, 100, 110), (254, 226, 120), (250, 248, 242), 16, "ends"),
    ((250, 246, 234), (44, 110, 200), (250, 150, 50), 0, "ends"),
)


def turned(points: Sequence[Point], degrees: float, centre: Point = (0.5, 0.5)) -> list[Point]:
    """Turn the points clockwise about the centre."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x0, y0 = centre
    return [(x0 + (x - x0) * c - (y - y0) * s, y0 + (x - x0) * s + (y - y0) * c) for x, y in points]


def oval(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> list[Point]:
    """Return points along an ellipse; degrees run clockwise from three o'clock."""
    angles = [math.radians(start + (end - start) * i / 48) for i in range(49)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def rounded(
    left: float, top: float, right: float, bottom: float, radius: float, top_radius: float | None = None
) -> list[Point]:
    """Return the outline of a rectangle with rounded corners."""
    r, t = radius, radius if top_radius is None else top_radius
    return [
        *oval(left + t, top + t, t, t, 180, 270),
        *oval(right - t, top + t, t, t, 270, 360),
        *oval(right - r, bottom - r, r, r, 0, 90),
        *oval(left + r, bottom - r, r, r, 90, 180),
    ]


def backpack(pen: Pen, variant: int) -> None:
    """Draw a school backpack from the front."""
    body, pocket, strap, tilt = BACKPACKS[variant]
    pen.tube(turned([(0.41, 0.14), (0.43, 0.07), (0.57, 0.07), (0.59, 0.14)], tilt), strap, 0.035)
    for side in (-1, 1):
        loop = [(0.24, 0.24), (0.13, 0.36), (0.105, 0.6), (0.22, 0.84)]
        pen.tube(turned([(0.5 - side * (0.5 - x), y) for x, y in loop], tilt), strap, 0.065)
    pen.polygon(turned(rounded(0.18, 0.11, 0.82, 0.93, 0.09, 0.27), tilt), body, width=0.022)
    pen.line(turned([(0.27, 0.3), (0.73, 0.3)], tilt), INK, 0.022)
    pen.line(turned([(0.66, 0.31), (0.66, 0.39)], tilt), WHITE, 0.035)
    pen.polygon(turned(rounded(0.27, 0.51, 0.73, 0.86, 0.07), tilt), pocket, width=0.02)
    pen.polygon(turned(rounded(0.25, 0.47, 0.75, 0.63, 0.05), tilt), pocket, width=0.02)
    pen.polygon(turned(rounded(0.455, 0.57, 0.545, 0.71, 0.025), tilt), strap)
    for x in (0.33, 0.67):
        pen.line(turned([(x, 0.145), (x, 0.46)], tilt), strap, 0.05)


def _segment(left: float, right: float) -> list[Point]:
    """Return one umbrella segment between two ribs, given where they meet the lower edge."""
    angles = [math.pi / 2 * i / 16 for i in range(17)]
    down = [(0.5 + (left - 0.5) * math.sin(a), 0.5 - 0.38 * math.cos(a)) for a in angles]
    up = [(0.5 + (right - 0.5) * math.sin(a), 0.5 - 0.38 * math.cos(a)) for a in reversed(angles)]
    ts = [i / 10 for i in range(1, 10)]
    edge = [(left + (right - left) * t, 0.5 - 0.055 * math.sin(math.pi * t)) for t in ts]
    return [*down, *edge, *up]


def umbrella(pen: Pen, variant: int) -> None:
    """Draw an open umbrella with a hooked handle."""
    first, second, handle, tilt = UMBRELLAS[variant]
    pen.line(turned([(0.5, 0.06), (0.5, 0.16)], tilt), INK, 0.04)
    pen.line(turned([(0.5, 0.4), (0.5, 0.76)], tilt), INK, 0.05)
    pen.line(turned([(0.5, 0.4), (0.5, 0.76)], tilt), METAL, 0.022)
    hook = [(0.5, 0.72), (0.5, 0.86), (0.53, 0.915), (0.585, 0.925), (0.635, 0.89), (0.645, 0.83)]
    pen.tube(turned(hook, tilt), handle, 0.045)
    edges = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
    for i, (left, right) in enumerate(pairwise(edges)):
        pen.polygon(turned(_segment(left, right), tilt), second if i % 2 else first, width=0.02)


def suitcase(pen: Pen, variant: int) -> None:
    """Draw a travel suitcase with wheels and its handle pulled out."""
    shell, ridge, guard, tilt = SUITCASES[variant]
    handle = [(0.37, 0.36), (0.37, 0.12), (0.63, 0.12), (0.63, 0.36)]
    pen.line(turned(handle, tilt), INK, 0.06)
    pen.line(turned(handle, tilt), METAL, 0.03)
    pen.line(turned([(0.35, 0.12), (0.65, 0.12)], tilt), DARK, 0.08)
    for x in (0.3, 0.7):
        wheel = turned([(x, 0.85)], tilt)[0]
        pen.circle(*wheel, 0.065, DARK)
        pen.circle(*wheel, 0.026, METAL, None)
    pen.polygon(turned(rounded(0.19, 0.29, 0.81, 0.83, 0.075), tilt), shell, width=0.022)
    for x in (0.345, 0.5, 0.655):
        pen.line(turned([(x, 0.38), (x, 0.74)], tilt), ridge, 0.05)
    for x, y, start in ((0.19, 0.29, 0), (0.81, 0.29, 90), (0.81, 0.83, 180), (0.19, 0.83, 270)):
        inward = (1 if x < 0.5 else -1, 1 if y < 0.5 else -1)
        corner = (x + 0.075 * inward[0], y + 0.075 * inward[1])
        pen.polygon(turned([*oval(*corner, 0.075, 0.075, start + 180, start + 270), corner], tilt), guard)


def _bow(pen: Pen, x: float, y: float, colour: Colour, degrees: float) -> None:
    """Draw a bow on a kite's tail."""
    for side in (-1, 1):
        wing = [(x, y), (x + 0.075 * side, y - 0.065), (x + 0.075 * side, y + 0.065)]
        pen.polygon(turned(wing, degrees, (x, y)), colour, width=0.014)


def kite(pen: Pen, variant: int) -> None:
    """Draw a diamond kite with a tail of bows."""
    *panels, bows, leftward, swing = KITES[variant]

    def placed(points: Sequence[Point]) -> list[Point]:
        return [(1 - x, y) for x, y in points] if leftward else list(points)

    top, right, bottom, left, middle = turned(
        [(0.62, 0.02), (0.93, 0.29), (0.62, 0.74), (0.31, 0.29), (0.62, 0.29)], 18, (0.62, 0.36)
    )
    x, y = bottom
    tail = [
        (x, y),
        (x + 0.01, y + 0.12),
        (x - 0.08, y + 0.12 + 0.03 * swing),
        (x - 0.22, y + 0.09 - 0.04 * swing),
        (x - 0.36, y + 0.1 + 0.04 * swing),
    ]
    pen.curve(placed(tail), INK, 0.024)
    corners = ((top, right), (right, bottom), (bottom, left), (left, top))
    for colour, (a, b) in zip((panels[0], panels[1], panels[2], panels[3]), corners, strict=True):
        pen.polygon(placed([a, b, middle]), colour, width=0.02)
    pen.polygon(placed([top, right, bottom, left]), None, width=0.026)
    for (bow_x, bow_y), degrees in zip(placed(tail[2:]), (20, -10, 15), strict=True):
        _bow(pen, bow_x, bow_y, bows, degrees)


def tennis_racket(pen: Pen, variant: int) -> None:
    """Draw a tennis racket."""
    frame, grip, tilt = RACKETS[variant]
    head = oval(0.5, 0.29, 0.215, 0.27)
    pen.polygon(turned(head, tilt), WHITE, None)
    for i in range(-2, 3):
        x, y = i * 0.075, i * 0.095
        half_y = 0.27 * math.sqrt(1 - (x / 0.215) ** 2)
        half_x = 0.215 * math.sqrt(1 - (y / 0.27) ** 2)
        pen.line(turned([(0.5 + x, 0.29 - half_y), (0.5 + x, 0.29 + half_y)], tilt), DARK, 0.012)
        pen.line(turned([(0.5 - half_x, 0.29 + y), (0.5 + half_x, 0.29 + y)], tilt), DARK, 0.012)
    throat = ([(0.37, 0.5), (0.49, 0.7)], [(0.63, 0.5), (0.51, 0.7)])
    for piece in throat:
        pen.line(turned(piece, tilt), INK, 0.075)
    pen.line(turned(head, tilt), INK, 0.08)
    pen.line(turned(head, tilt), frame, 0.046)
    for piece in throat:
        pen.line(turned(piece, tilt), frame, 0.042)
    pen.polygon(turned(rounded(0.455, 0.66, 0.545, 0.99, 0.03), tilt), grip, width=0.02)
    for y in (0.76, 0.83, 0.9):
        pen.line(turned([(0.46, y + 0.02), (0.54, y - 0.02)], tilt), INK, 0.014)


def _within(points: Sequence[Point], x: float, y: float, r: float) -> list[Point]:
    """Return the points that lie within a circle."""
    return [(a, b) for a, b in points if math.hypot(a - x, b - y) <= r]


def _tennis_ball(pen: Pen, x: float, y: float, r: float) -> None:
    """Draw a tennis ball."""
    pen.circle(x, y, r, TENNIS_YELLOW, None)
    for side, middle in ((-1, 0), (1, 180)):
        seam = oval(x + side * 1.15 * r, y, 0.75 * r, 0.95 * r, middle - 90, middle + 90)
        pen.line(_within(seam, x, y, 0.93 * r), WHITE, 0.13 * r)
    pen.circle(x, y, r, None, width=max(0.018, 0.05 * r))


def _football(pen: Pen) -> None:
    """Draw a football with black patches."""
    pen.circle(0.5, 0.5, 0.45, WHITE, None)
    for i in range(5):
        angle = -90 + 72 * i
        rim = [
            *oval(0.5, 0.5, 0.45, 0.45, angle - 19, angle + 19),
            *turned([(0.78, 0.6), (0.725, 0.5), (0.78, 0.4)], angle),
        ]
        pen.polygon(rim, INK)
        pen.line(turned([(0.65, 0.5), (0.73, 0.5)], angle), INK, 0.02)
        pen.line([turned([(0.78, 0.59)], angle)[0], turned([(0.78, 0.41)], angle + 72)[0]], INK, 0.02)
    pen.polygon([turned([(0.66, 0.5)], -90 + 72 * i)[0] for i in range(5)], INK)
    pen.circle(0.5, 0.5, 0.45, None, width=0.024)


def _basketball(pen: Pen) -> None:
    """Draw a basketball."""
    pen.circle(0.5, 0.5, 0.45, BASKETBALL, None)
    pen.line(turned([(0.06, 0.5), (0.94, 0.5)], 20), INK, 0.03)
    pen.line(turned([(0.5, 0.06), (0.5, 0.94)], 20), INK, 0.03)
    for x, middle in ((0.0, 0), (1.0, 180)):
        seam = oval(x, 0.5, 0.32, 0.42, middle - 90, middle + 90)
        pen.line(turned(_within(seam, 0.5, 0.5, 0.435), 20), INK, 0.03)
    pen.circle(0.5, 0.5, 0.45, None, width=0.03)


def _seam(start: Point, angle: float, bend: float) -> list[Point]:
    """Return a curved seam from a point to the ball's rim at an angle."""
    end = turned([(0.95, 0.5)], angle)[0]
    middle = (
        (start[0] + end[0]) / 2 + (end[1] - start[1]) * bend,
        (start[1] + end[1]) / 2 - (end[0] - start[0]) * bend,
    )
    return smooth([start, middle, end], closed=False)


def _volleyball(pen: Pen) -> None:
    """Draw a volleyball of curved yellow, blue and white panels."""
    for angle in (-80, 40, 160):
        border = _seam((0.5, 0.5), angle + 120, 0.14)
        seams = [_seam(border[k], angle + 6 * k, 0.14) for k in (0, 7, 13)]
        seams.append([border[20]])
        for i, colour in enumerate(VOLLEYBALL):
            k, after = (0, 7, 13, 20)[i : i + 2]
            rim = oval(0.5, 0.5, 0.45, 0.45, angle + 6 * k, angle + 6 * after)
            piece = [*seams[i], *rim, *reversed(seams[i + 1]), *reversed(border[k:after])]
            pen.polygon(piece, colour, width=0.02)
    pen.circle(0.5, 0.5, 0.45, None, width=0.026)


def _beach_ball(pen: Pen) -> None:
    """Draw a beach ball of coloured gores."""
    pole = (0.4, 0.36)
    for i, colour in enumerate(BEACH_BALL):
        rim = oval(0.5, 0.5, 0.45, 0.45, 60 * i - 10, 60 * i + 50)
        sides = []
        for end in (rim[0], rim[-1]):
            bend = (
                (pole[0] + end[0]) / 2 - (end[1] - pole[1]) * 0.14,
                (pole[1] + end[1]) / 2 + (end[0] - pole[0]) * 0.14,
            )
            sides.append(smooth([pole, bend, end], closed=False))
        pen.polygon([*sides[0], *rim, *reversed(sides[1])], colour, width=0.018)
    pen.circle(0.5, 0.5, 0.45, None, width=0.024)
    pen.circle(*pole, 0.065, WHITE)


def sports_ball(pen: Pen, variant: int) -> None:
    """Draw a football, basketball, tennis ball, volleyball or beach ball."""
    if variant == 2:
        _tennis_ball(pen, 0.5, 0.5, 0.45)
    else:
        {0: _football, 1: _basketball, 3: _volleyball, 4: _beach_ball}[variant](pen)


def _star(x: float, y: float, rx: float, ry: float) -> list[Point]:
    """Return a five-pointed star within an ellipse."""
    reach = [(1.0 if i % 2 == 0 else 0.42, math.radians(36 * i - 90)) for i in range(10)]
    return [(x + rx * r * math.cos(a), y + ry * r * math.sin(a)) for r, a in reach]


def frisbee(pen: Pen, variant: int) -> None:
    """Draw a flying frisbee, seen from slightly above."""
    rim, ring, middle, side, tilt = FRISBEES[variant]
    for y, start in ((0.34, 0.13), (0.5, 0.05), (0.66, 0.12)):
        pen.line(turned([(start, y), (0.36, y)], tilt), INK, 0.042)
    edge = [*oval(0.58, 0.56, 0.37, 0.2, 0, 180), *oval(0.58, 0.46, 0.37, 0.2, 180, 360)]
    pen.polygon(turned(edge, tilt), side, width=0.024)
    for rx, ry, colour in ((0.37, 0.2, rim), (0.27, 0.14, ring), (0.17, 0.085, middle)):
        pen.polygon(turned(oval(0.58, 0.46, rx, ry), tilt), colour, width=0.02)
    pen.polygon(turned(_star(0.58, 0.46, 0.12, 0.066), tilt), WHITE, None)


def _half_width(t: float) -> float:
    """Return a surfboard's half width at t, from 0 at the nose to 1 at the tail."""
    return 0.185 * math.sin(math.pi * (0.96 * t) ** 0.9) ** 0.8 if t > 0 else 0.0


def _board(start: float, end: float) -> list[Point]:
    """Return the part of an upright surfboard between two heights."""
    ts = [start + (end - start) * i / 40 for i in range(41)]
    left = [(0.5 - _half_width(t), 0.04 + 0.87 * t) for t in ts]
    right = [(0.5 + _half_width(t), 0.04 + 0.87 * t) for t in reversed(ts)]
    return [*left, *right]


def _flower(pen: Pen, x: float, y: float, petal: Colour, heart: Colour) -> None:
    """Draw a five-petalled flower."""
    for i in range(5):
        pen.circle(*turned([(x, y - 0.055)], 72 * i, (x, y))[0], 0.042, petal, None)
    pen.circle(x, y, 0.03, heart, None)


def surfboard(pen: Pen, variant: int) -> None:
    """Draw a surfboard with a pointed nose, stuck in the sand."""
    board, band, middle, tilt, pattern = SURFBOARDS[variant]
    pen.polygon(turned(_board(0, 1), tilt), board, None)
    pen.line(turned([(0.5, 0.08), (0.5, 0.92)], tilt), middle, 0.03)
    bands = ((0.26, 0.36), (0.46, 0.56)) if pattern == "bands" else ((0.0, 0.24), (0.66, 0.76))
    for start, end in bands:
        pen.polygon(turned(_board(start, end), tilt), band)
    if pattern == "ends":
        _flower(pen, *turned([(0.5, 0.44)], tilt)[0], band, middle)
    pen.polygon(turned(_board(0, 1), tilt), None, width=0.026)
    x = 0.5 - 0.4 * math.sin(math.radians(tilt))
    pen.polygon(oval(x, 0.94, 0.27, 0.15, 180, 360), SAND, width=0.022)


SPRITES: dict[str, tuple[Drawing, int]] = {
    "backpack": (backpack, 5),
    "umbrella": (umbrella, 5),
    "suitcase": (suitcase, 5),
    "kite": (kite, 6),
    "tennis racket": (tennis_racket, 5),
    "sports ball": (sports_ball, 5),
    "frisbee": (frisbee, 5),
    "surfboard": (surfboard, 5),
}
