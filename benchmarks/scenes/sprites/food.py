"""Sprites of food."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmhall.benchmarks.scenes.pen import INK, Colour, Drawing, Pen, Point, smooth
from mmhall.benchmarks.scenes.sprites.table_parts import (
    CREAM,
    LEAF,
    PEEL_SHADE,
    RED,
    WHITE,
    bar,
    mirror,
    oval,
    profile,
    turn,
)

CLEAR: Colour = (0, 0, 0, 0)
FLAME: Colour = (255, 196, 30)
STEM: Colour = (84, 52, 30)
STALK: Colour = (40, 110, 40)
SAUCE: Colour = (214, 70, 40)
SALAMI_SHINE: Colour = (240, 110, 90)
PEEL_TIP: Colour = (96, 66, 30)
FLESH: Colour = (255, 244, 206)
DOUGH: Colour = (222, 160, 88)
PLATE: Colour = (226, 234, 244)
CANDLES: tuple[Colour, ...] = ((90, 170, 240), (250, 214, 60))
CRUST: Colour = (214, 146, 66)
CHEESE: Colour = (255, 212, 84)
SALAMI: Colour = (204, 50, 40)
OLIVE: Colour = (52, 50, 58)

# Peel, whether it is mirrored, form.
BANANAS: tuple[tuple[Colour, bool, str], ...] = (
    ((255, 220, 50), False, "single"),
    ((255, 206, 40), True, "single"),
    ((255, 222, 60), False, "bunch"),
    ((255, 220, 50), False, "peeled"),
    ((206, 216, 70), True, "bunch"),
)
# Skin, cheek, form.
APPLES: tuple[tuple[Colour, Colour, str], ...] = (
    ((222, 36, 40), (250, 130, 120), "whole"),
    ((120, 196, 50), (200, 236, 140), "whole"),
    ((222, 36, 40), (250, 130, 120), "bitten"),
    ((222, 36, 40), (250, 130, 120), "cut"),
    ((170, 16, 44), (236, 100, 110), "whole"),
    ((120, 196, 50), (200, 236, 140), "bitten"),
)
# Root, creases, leaves, degrees, half width.
CARROTS: tuple[tuple[Colour, Colour, Colour, float, float], ...] = (
    ((250, 130, 30), (206, 84, 10), LEAF, 35, 0.150),
    ((250, 130, 30), (206, 84, 10), (50, 150, 70), 0, 0.165),
    ((240, 110, 20), (190, 70, 10), LEAF, -40, 0.150),
    ((255, 150, 50), (214, 100, 20), (110, 190, 60), 62, 0.130),
    ((246, 120, 40), (200, 80, 20), (40, 140, 60), -15, 0.185),
)
# Whether it is whole, topping, degrees, whether a piece is missing.
PIZZAS: tuple[tuple[bool, str, float, bool], ...] = (
    (False, "salami", 0, False),
    (True, "salami", 0, False),
    (False, "olives", 0, False),
    (True, "salami", 0, True),
    (True, "olives", 0, False),
    (False, "salami", 24, False),
)
# Icing, sprinkles, flattening, bite.
DONUTS: tuple[tuple[Colour, tuple[Colour, ...], float, bool], ...] = (
    ((250, 120, 180), (WHITE, (255, 226, 60), (60, 180, 240)), 1.0, False),
    ((98, 52, 30), (WHITE, (250, 120, 180), (255, 226, 60)), 1.0, False),
    ((250, 120, 180), (WHITE, (255, 226, 60), (60, 180, 240)), 0.95, True),
    ((110, 200, 240), (WHITE, (255, 226, 60), (240, 80, 90)), 0.78, False),
    (WHITE, ((240, 80, 90), (60, 150, 230), (255, 190, 40)), 1.0, False),
    ((98, 52, 30), (WHITE, (250, 120, 180), (255, 226, 60)), 0.78, False),
)
# Sponge, cream, icing, candles, form.
CAKES: tuple[tuple[Colour, Colour, Colour, int, str], ...] = (
    ((246, 206, 130), WHITE, (250, 140, 180), 2, "round"),
    ((120, 68, 40), CREAM, (82, 42, 26), 2, "round"),
    ((246, 206, 130), RED, (255, 250, 240), 1, "slice"),
    ((250, 160, 190), WHITE, (255, 250, 240), 2, "tiers"),
    ((250, 220, 150), WHITE, (110, 190, 240), 4, "round"),
    ((120, 68, 40), (250, 140, 180), (82, 42, 26), 1, "slice"),
)


def _finger(pen: Pen, peel: Colour, mirrored: bool, scale: float = 1.0, degrees: float = 0.0) -> None:
    """Draw one banana, bent to the right; `degrees` swing it about its stem."""
    outer = smooth([(0.19, 0.08), (0.10, 0.36), (0.15, 0.62), (0.34, 0.84), (0.62, 0.94), (0.88, 0.86)], closed=False)
    inner = smooth([(0.88, 0.77), (0.66, 0.72), (0.48, 0.58), (0.37, 0.38), (0.31, 0.06)], closed=False)
    ridge = smooth([(0.24, 0.24), (0.25, 0.50), (0.40, 0.72), (0.64, 0.83), (0.80, 0.82)], closed=False)
    cos, sin = math.cos(math.radians(degrees)) * scale, math.sin(math.radians(degrees)) * scale
    stem = 0.25 + 0.24 * (1 - scale)

    def place(points: Sequence[Point]) -> list[Point]:
        around = [(x - 0.25, y - 0.07) for x, y in points]
        moved = [(x * cos - y * sin, x * sin + y * cos) for x, y in around]
        return mirror([(stem + x, 0.07 + y) for x, y in moved], mirrored)

    pen.polygon(place([*outer, *inner]), peel)
    pen.line(place(ridge), PEEL_SHADE, 0.026 * scale)
    pen.polygon(place([(0.85, 0.765), (0.93, 0.765), (0.945, 0.84), (0.87, 0.875)]), PEEL_TIP)
    pen.polygon(place([(0.195, 0.05), (0.31, 0.04), (0.315, 0.15), (0.185, 0.16)]), PEEL_TIP)


def banana(pen: Pen, variant: int) -> None:
    """Draw a banana, a bunch of them or a half peeled one."""
    peel, mirrored, form = BANANAS[variant]
    if form == "single":
        _finger(pen, peel, mirrored)
    elif form == "bunch":
        for degrees in (-22, 6, 34):
            _finger(pen, peel, mirrored, 0.66, degrees)
        stalk = [(0.24, 0.04), (0.41, 0.04), (0.43, 0.14), (0.22, 0.16)]
        pen.polygon(mirror(stalk, mirrored), PEEL_TIP)
    else:
        left = [(0.48, 0.52), (0.36, 0.56), (0.22, 0.50), (0.12, 0.62), (0.08, 0.78), (0.20, 0.70), (0.34, 0.74)]
        pen.blob(
            [(0.40, 0.62), (0.41, 0.30), (0.46, 0.10), (0.54, 0.05), (0.61, 0.12), (0.63, 0.32), (0.62, 0.62)], FLESH
        )
        pen.blob([(0.39, 0.54), (0.64, 0.54), (0.64, 0.74), (0.56, 0.88), (0.46, 0.88), (0.38, 0.74)], peel)
        pen.polygon(bar(0.465, 0.87, 0.555, 0.95), PEEL_TIP)
        for mirrored_flap in (False, True):
            pen.blob(mirror(left, mirrored_flap), peel)
        pen.blob([(0.42, 0.48), (0.60, 0.48), (0.57, 0.72), (0.51, 0.82), (0.45, 0.72)], peel)


def apple(pen: Pen, variant: int) -> None:
    """Draw an apple with a stem and a leaf; whole, bitten or cut in half."""
    skin, cheek, form = APPLES[variant]
    outline = smooth(
        [
            (0.50, 0.32),
            (0.38, 0.265),
            (0.22, 0.28),
            (0.09, 0.44),
            (0.10, 0.64),
            (0.22, 0.86),
            (0.36, 0.95),
            (0.50, 0.92),
            (0.64, 0.95),
            (0.78, 0.86),
            (0.90, 0.64),
            (0.91, 0.44),
            (0.78, 0.28),
            (0.62, 0.265),
        ],
        closed=True,
    )
    pen.curve([(0.50, 0.36), (0.49, 0.22), (0.44, 0.09)], STEM, 0.060)
    pen.blob([(0.51, 0.22), (0.60, 0.08), (0.78, 0.05), (0.74, 0.18), (0.62, 0.24)], LEAF)
    if form == "bitten":
        bites = ((0.95, 0.47), (0.91, 0.60), (0.95, 0.73))
        kept = [p for p in outline if all(math.dist(p, bite) > 0.16 for bite in bites)]
        first = next(i for i, (x, y) in enumerate(kept) if x > 0.6 and y < 0.6)
        kept = kept[first:] + kept[:first]
        gap = max(range(len(kept)), key=lambda i: math.dist(kept[i], kept[i - 1]))
        scar = smooth(
            [kept[gap - 1], (0.80, 0.74), (0.79, 0.66), (0.73, 0.60), (0.79, 0.53), (0.80, 0.44), kept[gap]],
            closed=False,
        )
        pen.polygon([*kept[:gap], *scar, *kept[gap:]], skin)
        flesh = [(x - 0.07, y) for x, y in reversed(scar[3:-3])]
        pen.polygon([*scar[3:-3], *flesh], FLESH, width=0.010)
    else:
        pen.polygon(outline, skin)
    if form == "cut":
        pen.polygon([(0.5 + (x - 0.5) * 0.83, 0.61 + (y - 0.61) * 0.83) for x, y in outline], FLESH, None)
        for x, tilt in ((0.44, -0.02), (0.56, 0.02)):
            pen.blob([(x - tilt, 0.52), (x + 0.04, 0.62), (x + tilt, 0.68), (x - 0.04, 0.62)], STEM)
    else:
        pen.polygon(turn(oval(0.31, 0.40, 0.05, 0.11), 12), cheek, None)


def carrot(pen: Pen, variant: int) -> None:
    """Draw a carrot with its leaves."""
    root, crease, leaves, degrees, half = CARROTS[variant]
    for tip, side in (((0.30, 0.10), 0.055), ((0.70, 0.10), 0.055), ((0.50, 0.045), 0.065)):
        x, y = tip
        middle = ((x + 0.5) / 2, (y + 0.36) / 2)
        frond = [
            (0.48, 0.36),
            (middle[0] - side, middle[1]),
            (x - 0.05, y + 0.02),
            (x + 0.05, y + 0.02),
            (middle[0] + side, middle[1]),
            (0.52, 0.36),
        ]
        pen.blob(turn(frond, degrees), leaves)
    left = smooth(
        [
            (0.5, 0.315),
            (0.5 - half * 0.7, 0.325),
            (0.5 - half, 0.41),
            (0.5 - half * 0.78, 0.60),
            (0.5 - half * 0.40, 0.82),
            (0.5, 0.955),
        ],
        closed=False,
    )
    pen.polygon(turn(profile(left), degrees), root)
    for start, end, y in ((-0.85, -0.15, 0.45), (0.80, 0.15, 0.54), (-0.68, -0.10, 0.64), (0.50, 0.05, 0.73)):
        pen.line(turn([(0.5 + half * start, y), (0.5 + half * end, y + 0.02)], degrees), crease, 0.026)


def _topping(pen: Pen, topping: str, points: Sequence[Point], r: float) -> None:
    """Put slices of salami, or olives and basil, on the points."""
    for i, (x, y) in enumerate(points):
        if topping == "salami":
            pen.circle(x, y, r, SALAMI)
            pen.circle(x - r * 0.25, y - r * 0.25, r * 0.35, SALAMI_SHINE, None)
        elif i % 2:
            pen.circle(x, y, r * 0.8, OLIVE, None)
            pen.circle(x, y, r * 0.33, CHEESE, None)
        else:
            pen.blob(
                [(x - r, y + r * 0.4), (x - r * 0.1, y - r * 0.7), (x + r, y - r * 0.6), (x + r * 0.3, y + r * 0.7)],
                LEAF,
            )


def _slice(pen: Pen, topping: str, degrees: float) -> None:
    """Draw a slice of pizza, pointing down, with melting cheese; a turned one is narrower."""
    stretch = 0.76 if degrees else 1.0
    cheese = [
        (0.10, 0.17),
        (0.90, 0.17),
        (0.75, 0.47),
        (0.735, 0.60),
        (0.675, 0.60),
        (0.655, 0.645),
        (0.53, 0.93),
        (0.47, 0.93),
        (0.38, 0.73),
        (0.365, 0.82),
        (0.305, 0.82),
        (0.29, 0.56),
    ]
    spots = [(0.31, 0.33), (0.51, 0.47), (0.69, 0.32), (0.49, 0.70)]
    crust = [(0.11, 0.17), (0.30, 0.115), (0.50, 0.10), (0.70, 0.115), (0.89, 0.17)]
    pen.polygon(turn(cheese, degrees, stretch), CHEESE)
    _topping(pen, topping, turn(spots, degrees, stretch), 0.092)
    pen.tube(turn(crust, degrees, stretch), CRUST, 0.105)


def _around(r: float, degrees: float) -> Point:
    """Return the point at `r` from the middle of the square; degrees run clockwise from three o'clock."""
    a = math.radians(degrees)
    return 0.5 + r * math.cos(a), 0.5 + r * math.sin(a)


def pizza(pen: Pen, variant: int) -> None:
    """Draw a slice of pizza or a whole one."""
    whole, topping, degrees, missing = PIZZAS[variant]
    if not whole:
        _slice(pen, topping, degrees)
        return
    start, end = (-12, 282) if missing else (0, 360)
    for r, colour in ((0.46, CRUST), (0.385, SAUCE), (0.365, CHEESE)):
        ink = INK if colour == CRUST else None
        if missing:
            pen.pie(0.5, 0.5, r, r, start, end, colour, ink)
        else:
            pen.circle(0.5, 0.5, r, colour, ink)
    for cut in (start, end) if missing else range(45, 360, 60):
        pen.line([(0.5, 0.5), _around(0.45, cut)], INK if missing else CRUST)
    spots = [_around(0.245, 15 + 60 * i) for i in range(5 if missing else 6)]
    if not missing:
        spots.append((0.5, 0.5))
    _topping(pen, topping, spots, 0.088)


def _ring(radii: Sequence[float], flat: float, bite: bool) -> list[Point]:
    """Return a wavy circle flattened to `flat`; a bite takes its upper right away.

    Args:
        radii: The radii the circle alternates between.
        flat: The height over the width.
        bite: Whether the circle is bitten.
    """
    points: list[Point] = []
    for i in range(0, 360, 2):
        a = math.radians(i)
        r = radii[0] + (radii[-1] - radii[0]) * (0.5 + 0.5 * math.sin(9 * a))
        for degrees, bite_r in ((-62, 0.12), (-40, 0.13), (-18, 0.12)):
            off = a - math.radians(degrees)
            across = 0.45 * math.sin(off)
            if bite and abs(across) < bite_r and math.cos(off) > 0:
                r = min(r, 0.45 * math.cos(off) - math.sqrt(bite_r**2 - across**2))
        points.append((0.5 + r * math.cos(a), 0.5 + r * flat * math.sin(a)))
    return points


def donut(pen: Pen, variant: int) -> None:
    """Draw a donut with icing and sprinkles, seen from above."""
    icing, sprinkles, flat, bite = DONUTS[variant]
    depth = 0.10 * (1 - flat)
    for shift in (depth, -depth):
        pen.polygon([(x, y + shift) for x, y in _ring([0.45], flat, bite)], DOUGH)
    pen.polygon([(x, y - depth) for x, y in _ring([0.365, 0.42], flat, bite)], icing, width=0.012)
    for i in range(14):
        a = math.radians(360 / 14 * i + 8)
        r = 0.235 if i % 2 else 0.325
        if bite and -85 < (i * 360 / 14 + 188) % 360 - 180 < 5:
            continue
        x, y = 0.5 + r * math.cos(a), 0.5 - depth + r * flat * math.sin(a)
        dx, dy = 0.026 * math.cos(2.2 * i), 0.026 * math.sin(2.2 * i)
        pen.line([(x - dx, y - dy), (x + dx, y + dy)], sprinkles[i % 3], 0.030)
    pen.ellipse(0.5, 0.5 - depth, 0.150, 0.150 * flat, DOUGH)
    pen.ellipse(0.5, 0.5 - depth * 0.6, 0.115, 0.115 * flat - depth * 0.4, CLEAR)


def _candle(pen: Pen, x: float, bottom: float, height: float, colour: Colour) -> None:
    """Draw a burning candle."""
    top = bottom - height
    pen.rectangle(x - 0.03, top, x + 0.03, bottom, colour)
    pen.blob([(x, top - 0.13), (x + 0.042, top - 0.05), (x, top - 0.005), (x - 0.042, top - 0.05)], FLAME)


def _cherry(pen: Pen, x: float, y: float) -> None:
    """Draw a cherry with its stalk."""
    pen.curve([(x, y), (x + 0.02, y - 0.09), (x + 0.07, y - 0.14)], STALK, 0.020)
    pen.circle(x, y, 0.072, RED)
    pen.circle(x - 0.022, y - 0.022, 0.018, WHITE, None)


def _layers(pen: Pen, colours: tuple[Colour, Colour, Colour], left: float, top: float, bottom: float) -> None:
    """Draw a round cake from the side: sponge, a layer of cream, icing running down."""
    sponge, cream, icing = colours
    right, height = 1 - left, bottom - top
    pen.rectangle(left, top, right, bottom, sponge, radius=0.03)
    pen.rectangle(left, top + height * 0.58, right, top + height * 0.76, cream)
    step = (right - left) / 6
    drips = [(left + step * (6 - i / 2), top + height * (0.30 if i % 2 == 0 else 0.50)) for i in range(13)]
    pen.polygon([(left - 0.01, top), (right + 0.01, top), *smooth(drips, closed=False)], icing)
    pen.ellipse(0.5, top, (right - left) / 2 + 0.01, height * 0.13, icing)


def _cake_slice(pen: Pen, colours: tuple[Colour, Colour, Colour]) -> None:
    """Draw a slice of cake with a candle and a cherry."""
    sponge, cream, icing = colours
    pen.ellipse(0.5, 0.86, 0.46, 0.09, PLATE)
    pen.polygon([(0.08, 0.56), (0.90, 0.50), (0.90, 0.84), (0.08, 0.88)], sponge)
    pen.polygon([(0.08, 0.68), (0.90, 0.63), (0.90, 0.71), (0.08, 0.76)], cream)
    pen.polygon([(0.08, 0.50), (0.66, 0.34), (0.90, 0.44), (0.90, 0.55), (0.08, 0.61)], icing)
    pen.line([(0.08, 0.50), (0.90, 0.445)], INK)
    _cherry(pen, 0.74, 0.39)
    _candle(pen, 0.48, 0.45, 0.22, CANDLES[0])


def cake(pen: Pen, variant: int) -> None:
    """Draw a layered cake with candles and a cherry."""
    sponge, cream, icing, candles, form = CAKES[variant]
    colours = (sponge, cream, icing)
    if form == "slice":
        _cake_slice(pen, colours)
        return
    pen.ellipse(0.5, 0.885, 0.46, 0.07, PLATE)
    if form == "tiers":
        _layers(pen, colours, 0.12, 0.64, 0.90)
        _layers(pen, colours, 0.25, 0.40, 0.64)
        top, reach = 0.40, 0.14
    else:
        _layers(pen, colours, 0.12, 0.46, 0.90)
        top, reach = 0.46, 0.26
    places = [-1.0, -0.5, 0.5, 1.0] if candles == 4 else [-0.7, 0.7]
    for i, place in enumerate(places):
        _candle(pen, 0.5 + reach * place, top + 0.01, 0.20, CANDLES[i % 2])
    _cherry(pen, 0.5, top - 0.04)


SPRITES: dict[str, tuple[Drawing, int]] = {
    "banana": (banana, len(BANANAS)),
    "apple": (apple, len(APPLES)),
    "carrot": (carrot, len(CARROTS)),
    "pizza": (pizza, len(PIZZAS)),
    "donut": (donut, len(DONUTS)),
    "cake": (cake, len(CAKES)),
}
