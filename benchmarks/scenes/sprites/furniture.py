"""Cartoon sprites of furniture and of what stands on it, one function per object."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmhall.benchmarks.scenes.pen import INK, Colour, Drawing, Pen, Point, smooth
from mmhall.benchmarks.scenes.sprites.indoor_parts import (
    CREAM,
    GREY,
    ORANGE,
    PINK,
    RED,
    WHITE,
    YELLOW,
    at,
    mirror,
    patch,
    rounded,
    square,
    turn,
)

WOOD: Colour = (186, 118, 62)
DARK_WOOD: Colour = (122, 72, 40)
PURPLE: Colour = (144, 84, 190)

CHAIR_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((206, 136, 70), (226, 164, 98)),
    (DARK_WOOD, RED),
    ((206, 136, 70), (66, 150, 160)),
    ((222, 186, 130), (238, 208, 156)),
    (DARK_WOOD, (160, 98, 54)),
)
COUCH_COLOURS: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((204, 58, 54), (228, 88, 80), YELLOW),
    ((58, 112, 178), (92, 148, 212), ORANGE),
    ((66, 140, 96), (104, 176, 128), CREAM),
    ((142, 86, 50), (178, 116, 72), CREAM),
    ((112, 116, 128), (152, 158, 170), YELLOW),
    ((126, 80, 160), (162, 116, 196), PINK),
)
PLANT_COLOURS: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((206, 104, 58), (58, 158, 70), (104, 196, 92)),
    ((206, 104, 58), (46, 138, 76), (214, 206, 92)),
    ((190, 88, 52), (84, 172, 60), (140, 208, 92)),
    ((222, 126, 70), (36, 128, 66), (92, 182, 96)),
    ((196, 96, 60), (70, 166, 84), (226, 216, 104)),
)
BED_COLOURS: tuple[tuple[Colour, Colour, Colour], ...] = (
    (WOOD, (70, 130, 210), (176, 212, 246)),
    (DARK_WOOD, (214, 70, 66), (248, 190, 180)),
    (WOOD, (92, 168, 104), (206, 234, 204)),
    (DARK_WOOD, (150, 96, 186), (222, 200, 240)),
    ((214, 164, 104), (244, 158, 54), (252, 220, 160)),
)
BOOK_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((206, 52, 50), YELLOW),
    ((46, 100, 184), WHITE),
    ((48, 138, 82), YELLOW),
    ((148, 84, 46), RED),
    ((112, 66, 160), YELLOW),
    ((46, 100, 184), RED),
)
CLOCK_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((214, 56, 50), (250, 206, 70)),
    ((216, 62, 60), WHITE),
    ((46, 108, 190), WHITE),
    ((72, 176, 168), (250, 206, 70)),
    ((150, 92, 46), CREAM),
)
VASE_COLOURS: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((240, 244, 252), (44, 92, 190), RED),
    ((214, 116, 58), (70, 40, 32), YELLOW),
    ((60, 120, 200), (250, 226, 120), PINK),
    ((74, 176, 170), (252, 244, 220), PURPLE),
    ((150, 74, 150), (250, 206, 90), YELLOW),
)


def _chair_angled(pen: Pen, wood: Colour, seat: Colour, flipped: bool) -> None:
    """Draw a slatted chair seen from the front and a little from the side."""

    def side(points: Sequence[Point]) -> list[Point]:
        return mirror(points) if flipped else list(points)

    for x, top, bottom in ((0.33, 0.07, 0.84), (0.83, 0.07, 0.84)):
        pen.polygon(side([(x - 0.04, top), (x + 0.04, top), (x + 0.04, bottom), (x - 0.04, bottom)]), wood)
    for top in (0.08, 0.22, 0.36):
        pen.polygon(side([(0.33, top), (0.83, top), (0.83, top + 0.08), (0.33, top + 0.08)]), seat)
    for x in (0.18, 0.68):
        pen.polygon(side([(x - 0.04, 0.62), (x + 0.04, 0.62), (x + 0.04, 0.96), (x - 0.04, 0.96)]), wood)
    pen.polygon(side([(0.13, 0.63), (0.73, 0.63), (0.73, 0.71), (0.13, 0.71)]), wood)
    pen.polygon(side([(0.73, 0.63), (0.88, 0.51), (0.88, 0.59), (0.73, 0.71)]), wood)
    pen.polygon(side([(0.28, 0.51), (0.88, 0.51), (0.73, 0.63), (0.13, 0.63)]), seat)


def _chair_side(pen: Pen, wood: Colour, seat: Colour, flipped: bool) -> None:
    """Draw a padded dining chair seen from the side."""

    def side(points: Sequence[Point]) -> list[Point]:
        return mirror(points) if flipped else list(points)

    pen.polygon(side([(0.33, 0.58), (0.40, 0.58), (0.37, 0.86), (0.31, 0.86)]), wood)
    pen.polygon(side([(0.66, 0.58), (0.73, 0.58), (0.76, 0.86), (0.70, 0.86)]), wood)
    back = [(0.19, 0.05), (0.28, 0.05), (0.32, 0.58), (0.25, 0.96), (0.16, 0.96), (0.23, 0.58)]
    pen.polygon(side(back), wood)
    pen.polygon(side([(0.78, 0.6), (0.87, 0.6), (0.89, 0.96), (0.81, 0.96)]), wood)
    pen.polygon(side([(0.22, 0.59), (0.9, 0.59), (0.9, 0.67), (0.22, 0.67)]), wood)
    pen.polygon(side(rounded(0.27, 0.49, 0.92, 0.6, 0.05)), seat)
    pen.polygon(side(turn(rounded(0.26, 0.06, 0.36, 0.42, 0.05), -4, (0.31, 0.24))), seat)


def _chair_front(pen: Pen, wood: Colour, seat: Colour) -> None:
    """Draw a chair with a padded back, seen from the front."""
    for x in (0.27, 0.73):
        pen.rectangle(x - 0.04, 0.3, x + 0.04, 0.88, wood)
    pen.rectangle(0.19, 0.04, 0.81, 0.44, wood, radius=0.1)
    pen.rectangle(0.27, 0.11, 0.73, 0.38, seat, radius=0.06)
    for x in (0.17, 0.83):
        pen.rectangle(x - 0.045, 0.62, x + 0.045, 0.96, wood)
    pen.rectangle(0.12, 0.64, 0.88, 0.72, wood)
    pen.polygon([(0.22, 0.53), (0.78, 0.53), (0.9, 0.65), (0.1, 0.65)], seat)


def chair(pen: Pen, variant: int) -> None:
    """Draw a chair with four legs and a backrest."""
    wood, seat = CHAIR_COLOURS[variant]
    if variant == 2:
        _chair_side(pen, wood, seat, flipped=False)
    elif variant == 1:
        _chair_front(pen, wood, seat)
    else:
        _chair_angled(pen, wood, seat, flipped=variant == 4)


def couch(pen: Pen, variant: int) -> None:
    """Draw a couch from the front."""
    frame, cushion, pillow = COUCH_COLOURS[variant]
    seats = 3 if variant in (1, 3, 5) else 2
    tufted = variant in (3, 4)
    for x in (0.13, 0.81):
        pen.rectangle(x, 0.72, x + 0.06, 0.82, DARK_WOOD)
    if tufted:
        back = [(0.12, 0.7), (0.12, 0.32), (0.3, 0.26), (0.5, 0.19), (0.7, 0.26), (0.88, 0.32), (0.88, 0.7)]
        pen.blob(back, frame, width=0.02)
        for i in range(5):
            pen.circle(0.26 + 0.12 * i, 0.39 - 0.05 * (i % 2), 0.016, INK, None)
    else:
        pen.rectangle(0.1, 0.22, 0.9, 0.7, frame, width=0.02, radius=0.08)
        step = 0.72 / seats
        for i in range(seats):
            pen.rectangle(0.14 + i * step, 0.26, 0.14 + (i + 1) * step, 0.6, cushion, radius=0.05)
    pen.rectangle(0.12, 0.62, 0.88, 0.77, frame, width=0.02)
    step = 0.7 / seats
    for i in range(seats):
        pen.rectangle(0.15 + i * step, 0.53, 0.15 + (i + 1) * step, 0.66, cushion, radius=0.04)
    for x in (0.04, 0.82):
        pen.rectangle(x, 0.42, x + 0.14, 0.78, frame, width=0.02, radius=0.06)
    if variant != 1:
        pen.polygon(turn(rounded(0.2, 0.37, 0.36, 0.53, 0.03), 14, (0.28, 0.45)), pillow)
    if variant in (0, 2, 5):
        pen.polygon(turn(rounded(0.64, 0.37, 0.8, 0.53, 0.03), -14, (0.72, 0.45)), pillow)


def _leaf(pen: Pen, base: Point, angle: float, length: float, fill: Colour, vein: Colour, wide: float = 0.3) -> None:
    """Draw a leaf from its base; degrees run clockwise from straight up."""
    x, y = base
    w = wide * length
    outline = [
        (x, y),
        (x - 0.8 * w, y - 0.3 * length),
        (x - 0.75 * w, y - 0.62 * length),
        (x, y - length),
        (x + 0.75 * w, y - 0.62 * length),
        (x + 0.8 * w, y - 0.3 * length),
    ]
    pen.blob(turn(outline, angle, base), fill)
    pen.line(turn([(x, y - 0.1 * length), (x, y - 0.8 * length)], angle, base), vein, 0.018)


def _pot(pen: Pen, colour: Colour) -> None:
    """Draw a tapering flower pot with a rim."""
    pen.polygon([(0.29, 0.66), (0.71, 0.66), (0.65, 0.96), (0.35, 0.96)], colour, width=0.02)
    pen.rectangle(0.24, 0.6, 0.76, 0.71, colour, width=0.02, radius=0.02)


def potted_plant(pen: Pen, variant: int) -> None:
    """Draw a green plant in a terracotta pot."""
    pot, leaf, vein = PLANT_COLOURS[variant]
    if variant in (1, 4):
        for x, angle, length in ((0.4, -22, 0.46), (0.6, 22, 0.46), (0.45, -9, 0.57), (0.56, 10, 0.54), (0.5, 0, 0.62)):
            _leaf(pen, (x, 0.67), angle, length, leaf, vein, wide=0.17)
    elif variant == 2:
        for x, y, r in (
            (0.27, 0.43, 0.16),
            (0.73, 0.43, 0.16),
            (0.36, 0.22, 0.17),
            (0.64, 0.22, 0.17),
            (0.5, 0.4, 0.22),
        ):
            pen.circle(x, y, r, leaf, width=0.02)
        for x, y in ((0.32, 0.22), (0.6, 0.2), (0.24, 0.42), (0.46, 0.36), (0.72, 0.4), (0.56, 0.46)):
            _leaf(pen, (x, y + 0.05), 25, 0.11, vein, vein, wide=0.4)
    else:
        leaves = ((-78, 0.42), (78, 0.42), (-48, 0.52), (48, 0.52), (-18, 0.56), (20, 0.58))
        for angle, length in leaves:
            _leaf(pen, (0.5, 0.62), angle, length, leaf, vein, wide=0.3 if variant == 0 else 0.36)
    _pot(pen, pot)


def _bed_side(pen: Pen, wood: Colour, blanket: Colour, fold: Colour, flipped: bool) -> None:
    """Draw a single bed from the side, the headboard at one end."""

    def side(points: Sequence[Point]) -> list[Point]:
        return mirror(points) if flipped else list(points)

    pen.polygon(side([(0.08, 0.66), (0.92, 0.66), (0.92, 0.77), (0.08, 0.77)]), wood, width=0.02)
    pen.polygon(side(rounded(0.1, 0.5, 0.92, 0.68, 0.04)), WHITE)
    pen.polygon(side(turn(rounded(0.13, 0.36, 0.4, 0.53, 0.075), -8, (0.26, 0.45))), WHITE, width=0.02)
    pen.polygon(side(rounded(0.4, 0.41, 0.91, 0.72, 0.07)), blanket, width=0.02)
    pen.polygon(side(rounded(0.37, 0.41, 0.51, 0.72, 0.03)), fold, width=0.02)
    pen.polygon(side(rounded(0.04, 0.17, 0.13, 0.87, 0.03)), wood, width=0.02)
    pen.polygon(side(rounded(0.88, 0.36, 0.96, 0.87, 0.03)), wood, width=0.02)


def _bed_front(pen: Pen, wood: Colour, blanket: Colour, fold: Colour) -> None:
    """Draw a double bed from its foot, the headboard behind."""
    for x in (0.06, 0.86):
        pen.rectangle(x, 0.8, x + 0.08, 0.94, wood)
    pen.rectangle(0.12, 0.08, 0.88, 0.5, wood, width=0.02, radius=0.1)
    pen.polygon([(0.15, 0.38), (0.85, 0.38), (0.94, 0.8), (0.06, 0.8)], WHITE, width=0.02)
    for x in (0.19, 0.52):
        pen.rectangle(x, 0.26, x + 0.29, 0.44, WHITE, width=0.02, radius=0.07)
    pen.polygon([(0.12, 0.5), (0.88, 0.5), (0.95, 0.74), (0.05, 0.74)], blanket, width=0.02)
    pen.rectangle(0.04, 0.72, 0.96, 0.87, blanket, width=0.02, radius=0.03)
    pen.polygon([(0.13, 0.45), (0.87, 0.45), (0.895, 0.54), (0.105, 0.54)], fold)


def bed(pen: Pen, variant: int) -> None:
    """Draw a bed with a headboard, a pillow and a blanket."""
    wood, blanket, fold = BED_COLOURS[variant]
    if variant in (1, 4):
        _bed_front(pen, wood, blanket, fold)
    else:
        _bed_side(pen, wood, blanket, fold, flipped=variant == 3)


def _book_open(pen: Pen, cover: Colour, mark: Colour) -> None:
    """Draw an open book, its two pages with lines of text."""
    back = [(0.04, 0.3), (0.96, 0.3), (0.96, 0.82), (0.56, 0.82), (0.5, 0.86), (0.44, 0.82), (0.04, 0.82)]
    pen.polygon(back, cover, width=0.02)
    for sign in (-1, 1):

        def page(points: Sequence[Point], sign: int = sign) -> list[Point]:
            return [(0.5 + sign * x, y) for x, y in points]

        top = [(0.0, 0.29), (0.1, 0.23), (0.22, 0.21), (0.41, 0.25)]
        bottom = [(0.41, 0.76), (0.22, 0.72), (0.1, 0.74), (0.0, 0.8)]
        pen.polygon(page([*top, *bottom]), CREAM, width=0.02)
        for i in range(5):
            y = 0.33 + 0.08 * i
            pen.line(page([(0.07, y), (0.16, y - 0.03), (0.35, y - 0.01)]), (110, 106, 110), 0.018)
    pen.line([(0.5, 0.29), (0.5, 0.8)], INK, 0.02)
    pen.polygon([(0.6, 0.21), (0.67, 0.2), (0.67, 0.44), (0.635, 0.4), (0.6, 0.44)], mark)


def _book_closed(pen: Pen, cover: Colour, mark: Colour, flipped: bool) -> None:
    """Draw a thick closed book standing at an angle."""

    def side(points: Sequence[Point]) -> list[Point]:
        return mirror(points) if flipped else list(points)

    dark: Colour = (int(cover[0] * 0.68), int(cover[1] * 0.68), int(cover[2] * 0.68))
    pen.polygon(side([(0.26, 0.1), (0.42, 0.04), (0.86, 0.12), (0.72, 0.2)]), CREAM, width=0.02)
    pen.polygon(side([(0.72, 0.2), (0.86, 0.12), (0.86, 0.84), (0.72, 0.96)]), CREAM, width=0.02)
    for i in (1, 2, 3):
        x, y = 0.72 + 0.035 * i, 0.2 - 0.02 * i
        pen.line(side([(x, y), (x, y + 0.72)]), (150, 140, 124), 0.012)
    face = square(side([(0.24, 0.1), (0.72, 0.2), (0.72, 0.96), (0.24, 0.86)]))
    pen.polygon(face, cover, width=0.022)
    pen.polygon(patch(face, 0.26, 0.16, 0.88, 0.42), mark)
    pen.line([at(face, 0.38, 0.29), at(face, 0.76, 0.29)], INK, 0.026)
    pen.line([at(face, 0.34, 0.72), at(face, 0.8, 0.72)], mark, 0.03)
    pen.polygon(patch(face, 0.0, 0.0, 0.14, 1.0), dark, width=0.02)


def book(pen: Pen, variant: int) -> None:
    """Draw a book, closed or open."""
    cover, mark = BOOK_COLOURS[variant]
    if variant in (1, 3, 4):
        _book_open(pen, cover, mark)
    else:
        _book_closed(pen, cover, mark, flipped=variant == 2)


def _clock_face(pen: Pen, x: float, y: float, r: float, rim: Colour, hour: float, minute: float) -> None:
    """Draw a round clock face; the hands are given in degrees from twelve."""
    pen.circle(x, y, r, rim, width=0.022)
    pen.circle(x, y, 0.82 * r, WHITE)
    for i in range(12):
        inner = 0.58 if i % 3 == 0 else 0.66
        marks = [(x, y - 0.74 * r), (x, y - inner * r)]
        pen.line(turn(marks, 30 * i, (x, y)), INK, 0.028 if i % 3 == 0 else 0.016)
    pen.line(turn([(x, y), (x, y - 0.4 * r)], hour, (x, y)), INK, 0.045)
    pen.line(turn([(x, y), (x, y - 0.6 * r)], minute, (x, y)), INK, 0.03)
    pen.circle(x, y, 0.08 * r, RED)


def clock(pen: Pen, variant: int) -> None:
    """Draw a round wall clock or an alarm clock with bells."""
    rim, bell = CLOCK_COLOURS[variant]
    hands = ((-60, 60), (-50, 60), (90, 0), (60, -60), (120, -30))[variant]
    if variant not in (0, 3):
        _clock_face(pen, 0.5, 0.5, 0.46, rim, *hands)
        return
    for sign in (-1, 1):
        pen.line([(0.5 + 0.2 * sign, 0.84), (0.5 + 0.3 * sign, 0.94)], INK, 0.06)
        centre = (0.5 + 0.25 * sign, 0.24)
        dome = [
            (centre[0] + 0.17 * math.cos(math.radians(a)), centre[1] + 0.17 * math.sin(math.radians(a)))
            for a in range(180, 361, 15)
        ]
        pen.polygon(turn(dome, 40 * sign, centre), bell, width=0.02)
    pen.rectangle(0.47, 0.06, 0.53, 0.22, GREY)
    pen.circle(0.5, 0.08, 0.04, rim)
    _clock_face(pen, 0.5, 0.56, 0.37, rim, *hands)


def _flower(pen: Pen, x: float, y: float, r: float, petal: Colour) -> None:
    """Draw a flower head of five petals."""
    for i in range(5):
        px, py = turn([(x, y - 0.6 * r)], 72 * i, (x, y))[0]
        pen.circle(px, py, 0.5 * r, petal, width=0.012)
    pen.circle(x, y, 0.36 * r, YELLOW if petal != YELLOW else ORANGE, width=0.012)


def _bouquet(pen: Pen, mouth: float, petals: Sequence[Colour]) -> None:
    """Draw three flowers on stems that meet at the height of the vase's mouth."""
    heads = ((0.26, 0.2), (0.74, 0.2), (0.5, 0.15))
    for (x, y), petal in zip(heads, petals, strict=True):
        pen.curve([(0.5, mouth + 0.05), (0.5 + 0.5 * (x - 0.5), mouth - 0.08), (x, y)], (52, 140, 62), 0.03)
        _flower(pen, x, y, 0.12, petal)


def _vase_body(pen: Pen, half: Sequence[Point], fill: Colour) -> None:
    """Draw a body of revolution from the points (half width, height) of its profile."""
    right = [(0.5 + w, y) for w, y in half]
    left = [(0.5 - w, y) for w, y in reversed(half)]
    pen.polygon([*smooth(right, closed=False), *smooth(left, closed=False)], fill, width=0.022)


def vase(pen: Pen, variant: int) -> None:
    """Draw a curved, patterned vase, with flowers or with two handles."""
    body, pattern, petal = VASE_COLOURS[variant]
    if variant in (1, 4):
        for sign in (-1, 1):
            pen.tube(
                [
                    (0.5 + 0.1 * sign, 0.14),
                    (0.5 + 0.26 * sign, 0.14),
                    (0.5 + 0.3 * sign, 0.28),
                    (0.5 + 0.2 * sign, 0.4),
                ],
                body,
                0.036,
            )
        profile = [
            (0.16, 0.05),
            (0.1, 0.1),
            (0.1, 0.22),
            (0.24, 0.36),
            (0.29, 0.52),
            (0.2, 0.74),
            (0.1, 0.88),
            (0.17, 0.95),
        ]
        rows = ((0.4, 0.25), (0.66, 0.235))
    else:
        _bouquet(pen, 0.4, (petal, YELLOW if petal != YELLOW else RED, petal if variant != 3 else ORANGE))
        profile = [(0.15, 0.38), (0.09, 0.44), (0.1, 0.52), (0.26, 0.66), (0.25, 0.82), (0.14, 0.95)]
        rows = ((0.63, 0.23), (0.86, 0.22))
    _vase_body(pen, profile, body)
    for y, w in rows:
        pen.line([(0.5 - w, y), (0.5 + w, y)], pattern, 0.036)
    top, bottom = rows[0][0], rows[1][0]
    zigzag = [(0.29 + 0.07 * i, top + (0.3 + 0.4 * (i % 2)) * (bottom - top)) for i in range(7)]
    pen.line(zigzag, pattern, 0.034)


SPRITES: dict[str, tuple[Drawing, int]] = {
    "chair": (chair, 5),
    "couch": (couch, 6),
    "potted plant": (potted_plant, 5),
    "bed": (bed, 5),
    "book": (book, 6),
    "clock": (clock, 5),
    "vase": (vase, 5),
}
