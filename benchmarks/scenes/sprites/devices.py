"""Cartoon sprites of household devices, one function per object."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mmhall.benchmarks.scenes.pen import INK, Colour, Drawing, Pen, Point
from mmhall.benchmarks.scenes.sprites.indoor_parts import (
    CREAM,
    GREY,
    ORANGE,
    PINK,
    RED,
    WHITE,
    YELLOW,
    Quad,
    mirror,
    patch,
    rounded,
    square,
    turn,
)

BLACK: Colour = (38, 34, 40)
STEEL: Colour = (198, 204, 212)
GREEN: Colour = (66, 168, 76)
BLUE: Colour = (52, 116, 214)
SKY: Colour = (126, 206, 246)

TV_COLOURS: tuple[Colour, ...] = (
    (44, 44, 52),
    (176, 104, 52),
    (66, 68, 78),
    (216, 76, 58),
    (44, 44, 52),
)
LAPTOP_COLOURS: tuple[tuple[Colour, Colour, Colour], ...] = (
    (STEEL, (74, 150, 232), BLACK),
    ((86, 90, 102), (64, 190, 196), (226, 230, 236)),
    (STEEL, (122, 92, 200), BLACK),
    ((228, 206, 176), (240, 150, 110), (96, 70, 56)),
    ((70, 74, 86), (74, 150, 232), (226, 230, 236)),
)
MOUSE_COLOURS: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((240, 240, 242), (206, 210, 218), RED),
    ((78, 82, 94), (116, 122, 136), (80, 220, 120)),
    ((226, 222, 208), (196, 192, 178), BLUE),
    ((62, 64, 74), (96, 100, 114), RED),
)
KEYBOARD_COLOURS: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((58, 62, 74), (238, 240, 244), ORANGE),
    ((222, 226, 232), (66, 72, 88), (60, 130, 220)),
    ((34, 34, 42), (150, 158, 176), RED),
    ((232, 224, 204), (126, 108, 92), RED),
    ((58, 62, 74), (190, 200, 216), (70, 200, 150)),
)
PHONE_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    (BLACK, (96, 164, 236)),
    ((240, 240, 244), (70, 84, 140)),
    ((214, 60, 66), (240, 226, 210)),
    (BLACK, (164, 120, 214)),
    ((60, 110, 190), (206, 236, 250)),
)
FRIDGE_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((244, 246, 248), (206, 214, 222)),
    ((134, 210, 196), (98, 174, 162)),
    ((206, 212, 220), (166, 174, 184)),
    ((222, 66, 58), (176, 44, 44)),
    ((244, 246, 248), (206, 214, 222)),
)
BARS: tuple[Colour, ...] = (WHITE, YELLOW, SKY, GREEN, PINK, RED, BLUE)
APPS: tuple[Colour, ...] = (GREEN, YELLOW, RED, WHITE, ORANGE, PINK)


def _colour_bars(pen: Pen, left: float, top: float, right: float, bottom: float) -> None:
    """Draw a test picture of upright colour bars."""
    step = (right - left) / len(BARS)
    for i, colour in enumerate(BARS):
        pen.rectangle(left + i * step, top, left + (i + 1) * step, bottom, colour, None)
    pen.rectangle(left, top, right, bottom, None)


def _landscape(pen: Pen, left: float, top: float, right: float, bottom: float) -> None:
    """Draw a picture of hills under the sun."""
    w, h = right - left, bottom - top
    pen.rectangle(left, top, right, bottom, SKY, None)
    pen.circle(left + 0.78 * w, top + 0.3 * h, 0.14 * h, YELLOW, None)
    hills = ((0.0, 1.0), (0.0, 0.7), (0.3, 0.3), (0.55, 0.75), (0.7, 0.6), (1.0, 0.8), (1.0, 1.0))
    pen.polygon([(left + x * w, top + y * h) for x, y in hills], GREEN, None)
    pen.rectangle(left, top, right, bottom, None)


def _antenna(pen: Pen, foot: float) -> None:
    """Draw a rabbit-ear antenna on its foot."""
    for x in (0.28, 0.72):
        pen.line([(0.5, foot), (x, 0.06)], INK, 0.024)
        pen.circle(x, 0.07, 0.028, RED)
    pen.pie(0.5, foot, 0.1, 0.08, 180, 360, GREY)


def tv(pen: Pen, variant: int) -> None:
    """Draw a television: a wide flat screen or an old set, with an antenna."""
    case = TV_COLOURS[variant]
    _antenna(pen, 0.27)
    if variant in (1, 3):
        for x, foot in ((0.24, 0.18), (0.76, 0.82)):
            pen.line([(x, 0.86), (foot, 0.95)], INK, 0.05)
        pen.rectangle(0.04, 0.26, 0.96, 0.88, case, width=0.02, radius=0.08)
        pen.rectangle(0.09, 0.32, 0.72, 0.82, BLACK, radius=0.06)
        _colour_bars(pen, 0.13, 0.36, 0.68, 0.78)
        for y in (0.4, 0.56):
            pen.circle(0.84, y, 0.06, CREAM)
        for y in (0.68, 0.73, 0.78):
            pen.line([(0.78, y), (0.9, y)], INK, 0.014)
        return
    if variant == 2:
        for x, foot in ((0.26, 0.18), (0.74, 0.82)):
            pen.line([(x, 0.82), (foot, 0.93)], INK, 0.04)
    else:
        pen.rectangle(0.45, 0.8, 0.55, 0.92, case)
        pen.rectangle(0.27, 0.88, 0.73, 0.94, case, radius=0.02)
    pen.rectangle(0.04, 0.26, 0.96, 0.84, case, width=0.02, radius=0.03)
    picture = _landscape if variant == 4 else _colour_bars
    picture(pen, 0.08, 0.3, 0.92, 0.78)


def _keys(
    pen: Pen, quad: Quad, rows: Sequence[int], fill: Colour, ink: Colour | None, width: float = 0.01, gap: float = 0.01
) -> None:
    """Draw rows of keys on a quad; a row of 3 has a space bar in its middle."""
    for r, count in enumerate(rows):
        edges = [0.0, 0.2, 0.8, 1.0] if count == 3 else [i / count for i in range(count + 1)]
        top, bottom = r / len(rows), (r + 1) / len(rows)
        for left, right in itertools.pairwise(edges):
            cell = patch(quad, left + gap, top + 2 * gap, right - gap, bottom - 2 * gap)
            pen.polygon(cell, fill, ink, width)


def _laptop_front(pen: Pen, case: Colour, screen: Colour, key: Colour) -> None:
    """Draw an open laptop from the front."""
    pen.rectangle(0.15, 0.13, 0.85, 0.6, case, width=0.02, radius=0.03)
    pen.rectangle(0.2, 0.18, 0.8, 0.55, screen)
    pen.polygon([(0.27, 0.55), (0.45, 0.18), (0.6, 0.18), (0.42, 0.55)], WHITE, None)
    base: Quad = ((0.15, 0.6), (0.85, 0.6), (0.95, 0.83), (0.05, 0.83))
    pen.polygon(base, case, width=0.02)
    _keys(pen, patch(base, 0.06, 0.08, 0.94, 0.66), (9, 9, 9), key, None)
    pen.polygon(patch(base, 0.36, 0.72, 0.64, 0.96), case, width=0.01)
    pen.rectangle(0.04, 0.82, 0.96, 0.88, case, width=0.02, radius=0.02)


def _laptop_angled(pen: Pen, case: Colour, screen: Colour, key: Colour, flipped: bool) -> None:
    """Draw an open laptop turned to one side."""

    def side(points: Sequence[Point]) -> Quad:
        return square(mirror(points) if flipped else points)

    lid = side([(0.3, 0.1), (0.92, 0.16), (0.86, 0.6), (0.28, 0.56)])
    base = side([(0.28, 0.56), (0.86, 0.6), (0.66, 0.86), (0.05, 0.76)])
    edge = side([(0.05, 0.76), (0.66, 0.86), (0.66, 0.91), (0.05, 0.81)])
    far = side([(0.66, 0.86), (0.86, 0.6), (0.86, 0.65), (0.66, 0.91)])
    pen.polygon(lid, case, width=0.02)
    pen.polygon(patch(lid, 0.07, 0.1, 0.93, 0.88), screen)
    pen.polygon(patch(lid, 0.14, 0.2, 0.5, 0.7), WHITE, None)
    pen.polygon(patch(lid, 0.58, 0.2, 0.86, 0.4), YELLOW, None)
    pen.polygon(edge, case, width=0.02)
    pen.polygon(far, case, width=0.02)
    pen.polygon(base, case, width=0.02)
    _keys(pen, patch(base, 0.06, 0.08, 0.94, 0.64), (8, 8, 8), key, None)
    pen.polygon(patch(base, 0.36, 0.7, 0.64, 0.94), case, width=0.01)


def laptop(pen: Pen, variant: int) -> None:
    """Draw an open laptop."""
    case, screen, key = LAPTOP_COLOURS[variant]
    if variant in (1, 4):
        _laptop_angled(pen, case, screen, key, flipped=variant == 4)
    else:
        _laptop_front(pen, case, screen, key)


def mouse(pen: Pen, variant: int) -> None:
    """Draw a computer mouse with its cable, from above."""
    body, button, wheel = MOUSE_COLOURS[variant]
    angle = (0, 20, 0, -20)[variant]
    centre = (0.5, 0.64)

    def turned(points: Sequence[Point]) -> list[Point]:
        return turn(points, angle, centre)

    bend = -1 if variant in (1, 2) else 1
    tip = turned([(0.5, 0.27)])[0]
    end = 0.5 - 0.16 * bend
    cable = [tip, (tip[0], 0.2), (0.5 + 0.14 * bend, 0.14), (end + 0.12 * bend, 0.1), (end, 0.1)]
    pen.curve(cable, INK, 0.036)
    for start, length, high, fill in ((0.0, 0.11, 0.055, button), (0.11, 0.05, 0.03, STEEL)):
        near, far = end - start * bend, end - (start + length) * bend
        pen.rectangle(min(near, far), 0.1 - high, max(near, far), 0.1 + high, fill)
    top = rounded(0.26, 0.27, 0.74, 0.96, 0.235)
    pen.polygon(turned(top), body, width=0.024)
    pen.polygon(turned([*top[21:], *top[:7], (0.74, 0.57), (0.26, 0.57)]), button, width=0.024)
    pen.line(turned([(0.5, 0.27), (0.5, 0.57)]), INK, 0.024)
    pen.polygon(turned(rounded(0.45, 0.34, 0.55, 0.5, 0.049)), wheel)


def keyboard(pen: Pen, variant: int) -> None:
    """Draw a computer keyboard."""
    case, key, accent = KEYBOARD_COLOURS[variant]
    if variant in (1, 4):
        quad: Quad = ((0.14, 0.29), (0.86, 0.29), (0.95, 0.68), (0.05, 0.68))
        pen.polygon([(0.05, 0.68), (0.95, 0.68), (0.95, 0.74), (0.05, 0.74)], case, width=0.02)
    else:
        quad = ((0.05, 0.29), (0.95, 0.29), (0.95, 0.71), (0.05, 0.71))
    pen.polygon(quad, case, width=0.022)
    inner = patch(quad, 0.045, 0.1, 0.955, 0.9)
    _keys(pen, inner, (8, 8, 8, 3), key, None, gap=0.014)
    pen.polygon(patch(inner, 0.014, 0.028, 0.111, 0.222), accent, None)
    pen.polygon(patch(inner, 0.889, 0.528, 0.986, 0.722), accent, None)


def cell_phone(pen: Pen, variant: int) -> None:
    """Draw a mobile phone showing its apps."""
    case, screen = PHONE_COLOURS[variant]
    angle = (0, 10, 0, -10, 0)[variant]
    home = variant in (1, 2)

    def turned(points: Sequence[Point]) -> list[Point]:
        return turn(points, angle)

    pen.polygon(turned(rounded(0.26, 0.06, 0.74, 0.94, 0.08)), case, width=0.022)
    bottom = 0.82 if home else 0.91
    top = 0.13 if home else 0.09
    pen.polygon(turned(rounded(0.31, top, 0.69, bottom, 0.02 if home else 0.05)), screen, width=0.012)
    if home:
        pen.circle(*turned([(0.5, 0.885)])[0], 0.035, WHITE)
        pen.line(turned([(0.45, 0.09), (0.55, 0.09)]), INK, 0.02)
    else:
        pen.polygon(turned(rounded(0.42, 0.085, 0.58, 0.125, 0.018)), INK)
    start = top + 0.05 if home else top + 0.08
    for row in range(4):
        for column in range(3):
            x, y = 0.34 + 0.115 * column, start + 0.135 * row
            app = APPS[(row * 2 + column + variant) % len(APPS)]
            pen.polygon(turned(rounded(x, y, x + 0.09, y + 0.09, 0.022)), app, width=0.009)


def _fridge_open(pen: Pen, front: Colour, shade: Colour) -> None:
    """Draw a refrigerator with its lower door open and food inside."""
    pen.rectangle(0.14, 0.04, 0.64, 0.95, front, width=0.02, radius=0.04)
    pen.line([(0.14, 0.32), (0.64, 0.32)], INK, 0.022)
    pen.line([(0.56, 0.13), (0.56, 0.25)], INK, 0.04)
    pen.rectangle(0.18, 0.36, 0.6, 0.9, (214, 240, 252))
    for y in (0.54, 0.72):
        pen.line([(0.18, y), (0.6, y)], INK, 0.018)
    pen.circle(0.27, 0.48, 0.05, RED)
    pen.rectangle(0.36, 0.42, 0.42, 0.535, WHITE)
    pen.circle(0.52, 0.48, 0.05, ORANGE)
    pen.polygon([(0.22, 0.71), (0.38, 0.71), (0.38, 0.61)], YELLOW)
    pen.rectangle(0.45, 0.6, 0.54, 0.71, GREEN)
    pen.rectangle(0.22, 0.77, 0.56, 0.9, (120, 190, 110))
    pen.polygon([(0.64, 0.33), (0.88, 0.4), (0.88, 0.96), (0.64, 0.93)], shade, width=0.02)
    pen.line([(0.82, 0.48), (0.82, 0.64)], INK, 0.03)


def refrigerator(pen: Pen, variant: int) -> None:
    """Draw a tall refrigerator with two doors."""
    front, shade = FRIDGE_COLOURS[variant]
    if variant == 4:
        _fridge_open(pen, front, shade)
        return
    for x in (0.28, 0.64):
        pen.rectangle(x, 0.9, x + 0.08, 0.96, BLACK)
    radius = 0.1 if variant in (1, 3) else 0.03
    pen.rectangle(0.22, 0.04, 0.78, 0.93, front, width=0.022, radius=radius)
    if variant == 2:
        pen.line([(0.5, 0.05), (0.5, 0.92)], INK, 0.022)
        for x in (0.455, 0.545):
            pen.line([(x, 0.3), (x, 0.65)], INK, 0.034)
        pen.rectangle(0.27, 0.32, 0.41, 0.52, (70, 78, 92))
        pen.rectangle(0.3, 0.35, 0.38, 0.41, SKY, None)
        return
    pen.rectangle(0.68, 0.12, 0.74, 0.86, shade, None)
    pen.line([(0.23, 0.36), (0.77, 0.36)], INK, 0.03)
    for top, bottom in ((0.16, 0.29), (0.44, 0.66)):
        pen.tube([(0.31, top), (0.31, bottom)], STEEL if variant else GREY, 0.036)


SPRITES: dict[str, tuple[Drawing, int]] = {
    "tv": (tv, 5),
    "laptop": (laptop, 5),
    "mouse": (mouse, 4),
    "keyboard": (keyboard, 5),
    "cell phone": (cell_phone, 5),
    "refrigerator": (refrigerator, 5),
}
