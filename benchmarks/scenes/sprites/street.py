"""Cartoon street furniture and skateboards: one drawing function per object, several variants each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmhall.benchmarks.scenes.pen import INK, Colour, Drawing, Pen, Point
from mmhall.benchmarks.scenes.sprites.street_parts import GREY, STEEL, TYRE, WHITE, WOOD, YELLOW, turned

LAMP_PLATE: Colour = (44, 44, 52)

LIGHT_HOUSINGS: tuple[Colour, ...] = ((58, 60, 68), (250, 196, 30), (46, 84, 66), (40, 42, 50), (250, 196, 30))
LIGHT_LAMPS: tuple[Colour, ...] = ((255, 48, 44), (255, 206, 40), (52, 220, 90))
HYDRANT_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((222, 36, 40), (222, 36, 40)),
    ((255, 200, 30), (224, 60, 44)),
    ((226, 44, 40), (240, 240, 236)),
    ((222, 36, 40), YELLOW),
    ((240, 90, 36), (250, 220, 80)),
)
STOP_REDS: tuple[Colour, ...] = ((214, 26, 36), (230, 40, 40), (196, 20, 32), (222, 30, 50))
BENCH_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    (WOOD, TYRE),
    ((206, 140, 74), (40, 110, 80)),
    ((60, 150, 90), TYRE),
    ((150, 84, 44), GREY),
    ((214, 150, 80), TYRE),
)
SKATEBOARD_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((240, 70, 60), (255, 214, 60)),
    ((40, 170, 200), (240, 80, 120)),
    ((250, 150, 40), (60, 90, 200)),
    ((130, 80, 200), (120, 230, 110)),
    ((60, 180, 90), (250, 110, 50)),
)

STOP_LETTERS: tuple[tuple[tuple[Point, ...], ...], ...] = (
    (
        (
            (1.0, 0.12),
            (0.75, 0.0),
            (0.2, 0.0),
            (0.0, 0.15),
            (0.0, 0.38),
            (0.2, 0.5),
            (0.8, 0.5),
            (1.0, 0.62),
            (1.0, 0.85),
            (0.8, 1.0),
            (0.25, 1.0),
            (0.0, 0.88),
        ),
    ),
    (((0.0, 0.0), (1.0, 0.0)), ((0.5, 0.0), (0.5, 1.0))),
    (
        (
            (0.25, 0.0),
            (0.75, 0.0),
            (1.0, 0.2),
            (1.0, 0.8),
            (0.75, 1.0),
            (0.25, 1.0),
            (0.0, 0.8),
            (0.0, 0.2),
            (0.25, 0.0),
        ),
    ),
    (((0.0, 1.0), (0.0, 0.0), (0.75, 0.0), (1.0, 0.14), (1.0, 0.42), (0.75, 0.56), (0.0, 0.56)),),
)


def traffic_light(pen: Pen, variant: int) -> None:
    """Draw a traffic light, with visors or on a pole."""
    housing = LIGHT_HOUSINGS[variant % len(LIGHT_HOUSINGS)]
    on_pole = variant % 3 == 2
    step = 0.2 if on_pole else 0.27
    top, r = 0.06, step * 0.4
    bottom = top + 3 * step + 0.06
    half = r + 0.066
    if on_pole:
        pen.rectangle(0.465, bottom - 0.02, 0.535, 0.95, GREY)
        pen.rectangle(0.36, 0.9, 0.64, 0.96, GREY)
    if variant % 2 == 1:
        for i in range(3):
            y = top + 0.03 + (i + 0.5) * step
            for side in (-1, 1):
                pen.polygon(
                    [
                        (0.5 + side * half, y - 0.09),
                        (0.5 + side * (half + 0.11), y - 0.09),
                        (0.5 + side * half, y + 0.09),
                    ],
                    housing,
                )
    pen.rectangle(0.5 - half, top, 0.5 + half, bottom, housing, width=0.022, radius=0.06)
    plate = r + 0.016
    pen.rectangle(0.5 - plate, top + 0.036, 0.5 + plate, bottom - 0.036, LAMP_PLATE, None, radius=0.04)
    for i, lamp in enumerate(LIGHT_LAMPS):
        y = top + 0.03 + (i + 0.5) * step
        pen.circle(0.5, y, r + 0.012, INK)
        pen.circle(0.5, y, r - 0.008, lamp, None)
        pen.circle(0.5 - r * 0.32, y - r * 0.32, r * 0.22, WHITE, None)


def fire_hydrant(pen: Pen, variant: int) -> None:
    """Draw a fire hydrant with a front nozzle, or one with only the side ones."""
    body, cap = HYDRANT_COLOURS[variant % len(HYDRANT_COLOURS)]
    facing = variant % 2 == 0
    for side in (-1, 1):
        pen.rectangle(min(0.5, 0.5 + 0.28 * side), 0.42, max(0.5, 0.5 + 0.28 * side), 0.56, body)
        x = 0.5 + 0.29 * side
        pen.rectangle(x - 0.045, 0.385, x + 0.045, 0.595, cap, radius=0.02)
    pen.rectangle(0.31, 0.3, 0.69, 0.86, body)
    pen.rectangle(0.45, 0.05, 0.55, 0.15, cap)
    pen.pie(0.5, 0.3, 0.2, 0.19, 180, 360, cap)
    pen.rectangle(0.25, 0.26, 0.75, 0.34, body, radius=0.02)
    pen.rectangle(0.22, 0.85, 0.78, 0.95, body, radius=0.02)
    if facing:
        pen.circle(0.5, 0.53, 0.14, cap)
        pen.circle(0.5, 0.53, 0.065, STEEL)
    else:
        pen.line([(0.41, 0.4), (0.41, 0.8)], WHITE, 0.035)
        pen.rectangle(0.31, 0.66, 0.69, 0.73, cap)


def stop_sign(pen: Pen, variant: int) -> None:
    """Draw a stop sign, on a pole or alone."""
    red = STOP_REDS[variant % len(STOP_REDS)]
    tilt = (0.0, 0.0, 0.0, -8.0)[variant % 4]
    r, y = (0.33, 0.37) if variant % 2 == 0 else (0.46, 0.5)
    if variant % 2 == 0:
        pen.rectangle(0.46, y, 0.54, 0.96, STEEL)
    angles = [math.radians(22.5 + 45 * i) for i in range(8)]
    corners = [(0.5 + r * math.cos(angle), y + r * math.sin(angle)) for angle in angles]
    inner = [(0.5 + 0.88 * (px - 0.5), y + 0.88 * (py - y)) for px, py in corners]
    pen.polygon(turned(corners, tilt, 0.5, y), WHITE)
    pen.polygon(turned(inner, tilt, 0.5, y), red, None)
    width, height, gap = r * 0.285, r * 0.62, r * 0.4
    for i, strokes in enumerate(STOP_LETTERS):
        left = 0.5 + (i - 1.5) * gap - width / 2
        for stroke in strokes:
            points = [(left + width * px, y + height * (py - 0.5)) for px, py in stroke]
            pen.line(turned(points, tilt, 0.5, y), WHITE, r * 0.105)


def bench_slanted(pen: Pen, wood: Colour, legs: Colour) -> None:
    """Draw a park bench seen a little from the left."""
    for x, top, bottom in ((0.15, 0.24, 0.82), (0.8, 0.13, 0.7), (0.27, 0.66, 0.92), (0.9, 0.55, 0.8)):
        pen.rectangle(x - 0.028, top, x + 0.028, bottom, legs)
    for top in (0.25, 0.38):
        pen.polygon([(0.05, top + 0.03), (0.86, top - 0.11), (0.86, top), (0.05, top + 0.14)], wood)
    for i in range(3):
        x, y = 0.055 * i, 0.05 * i
        slat = [(0.08 + x, 0.57 + y), (0.8 + x, 0.44 + y), (0.845 + x, 0.49 + y), (0.125 + x, 0.62 + y)]
        pen.polygon(slat, wood)


def bench(pen: Pen, variant: int) -> None:
    """Draw a park bench from the front or at an angle."""
    wood, legs = BENCH_COLOURS[variant % len(BENCH_COLOURS)]
    if variant % 2 == 1:
        bench_slanted(pen, wood, legs)
        return
    for x in (0.17, 0.83):
        pen.rectangle(x - 0.03, 0.2, x + 0.03, 0.82, legs)
        out = -0.06 if x < 0.5 else 0.06
        pen.tube([(x, 0.6), (x + out * 0.4, 0.7), (x + out, 0.82)], legs, 0.036)
    for top in (0.22, 0.335, 0.45):
        pen.rectangle(0.05, top, 0.95, top + 0.085, wood, radius=0.015)
    pen.polygon([(0.09, 0.57), (0.91, 0.57), (0.96, 0.645), (0.04, 0.645)], wood)
    pen.rectangle(0.04, 0.64, 0.96, 0.69, wood)
    for x in (0.1, 0.9):
        pen.line([(x, 0.46), (x, 0.6)], INK, 0.05)
        pen.line([(x - 0.035, 0.455), (x + 0.035, 0.455)], INK, 0.05)


def skateboard_below(pen: Pen, deck: Colour, accent: Colour) -> None:
    """Draw the underside of a skateboard, standing aslant."""

    def place(points: Sequence[Point]) -> list[Point]:
        return turned(points, 35)

    for y in (0.22, 0.78):
        for side in (-1, 1):
            pen.tube(place([(0.5 + 0.175 * side, y - 0.03), (0.5 + 0.175 * side, y + 0.03)]), WHITE, 0.075)
    pen.blob(
        place(
            [
                (0.5, 0.0),
                (0.61, 0.05),
                (0.64, 0.18),
                (0.64, 0.5),
                (0.64, 0.82),
                (0.61, 0.95),
                (0.5, 1.0),
                (0.39, 0.95),
                (0.36, 0.82),
                (0.36, 0.5),
                (0.36, 0.18),
                (0.39, 0.05),
            ]
        ),
        deck,
    )
    bolt = [(0.54, 0.33), (0.42, 0.53), (0.5, 0.53), (0.46, 0.68), (0.59, 0.47), (0.51, 0.47)]
    pen.polygon(place(bolt), accent)
    for y in (0.22, 0.78):
        pen.line(place([(0.38, y), (0.62, y)]), INK, 0.07)
        pen.line(place([(0.38, y), (0.62, y)]), STEEL, 0.036)


def skateboard(pen: Pen, variant: int) -> None:
    """Draw a skateboard from the side, flat or rearing, or from below."""
    deck, accent = SKATEBOARD_COLOURS[variant % len(SKATEBOARD_COLOURS)]
    if variant % 2 == 1:
        skateboard_below(pen, deck, accent)
        return
    tilt = -20 if variant % 4 == 2 else 0

    def place(points: Sequence[Point]) -> list[Point]:
        return turned([(x, y + 0.04) for x, y in points], tilt)

    for x in (0.27, 0.73):
        pen.polygon(place([(x - 0.08, 0.5), (x + 0.08, 0.5), (x + 0.03, 0.62), (x - 0.03, 0.62)]), STEEL)
        ((wx, wy),) = place([(x, 0.64)])
        pen.circle(wx, wy, 0.105, accent)
        pen.circle(wx, wy, 0.04, WHITE)
    axis = [(0.1, 0.37), (0.17, 0.44), (0.26, 0.48), (0.5, 0.48), (0.74, 0.48), (0.83, 0.44), (0.9, 0.37)]
    pen.tube(place(axis), deck, 0.085)
    pen.curve(place([(x, y - 0.035) for x, y in axis]), INK, 0.03)


SPRITES: dict[str, tuple[Drawing, int]] = {
    "traffic light": (traffic_light, 5),
    "fire hydrant": (fire_hydrant, 5),
    "stop sign": (stop_sign, 4),
    "bench": (bench, 5),
    "skateboard": (skateboard, 5),
}
