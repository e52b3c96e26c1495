"""Cartoon vehicles: one drawing function per object, several variants each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmhall.benchmarks.scenes.pen import INK, Colour, Drawing, Pen, Point
from mmhall.benchmarks.scenes.sprites.street_parts import GREY, STEEL, TYRE, WHITE, WOOD, YELLOW, turned

GLASS: Colour = (160, 220, 245)
WATER: Colour = (44, 140, 214)
EARTH: Colour = (126, 84, 52)

BICYCLE_COLOURS: tuple[Colour, ...] = ((226, 40, 44), (34, 150, 220), (60, 176, 74), (250, 140, 30))
CAR_COLOURS: tuple[Colour, ...] = (
    (224, 40, 44),
    (40, 120, 220),
    (255, 200, 30),
    (66, 180, 90),
    (240, 100, 40),
    (60, 190, 200),
)
AIRPLANE_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    (WHITE, (30, 100, 210)),
    (WHITE, (222, 44, 48)),
    ((210, 222, 236), (240, 130, 30)),
    (WHITE, (20, 150, 140)),
    ((255, 214, 60), (214, 50, 50)),
    ((140, 196, 240), (36, 60, 140)),
)
BUS_COLOURS: tuple[Colour, ...] = (
    (255, 190, 20),
    (214, 34, 44),
    (36, 120, 210),
    (255, 176, 0),
    (60, 164, 86),
    (220, 40, 50),
)
TRAIN_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((40, 130, 80), (214, 50, 44)),
    ((58, 60, 72), (214, 40, 44)),
    ((220, 50, 44), YELLOW),
    ((34, 84, 180), YELLOW),
    ((190, 40, 50), (70, 72, 84)),
    ((50, 110, 200), (224, 60, 50)),
)
TRUCK_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((226, 50, 44), WHITE),
    ((36, 110, 210), (222, 226, 232)),
    ((255, 196, 30), (240, 140, 40)),
    ((60, 166, 86), WHITE),
    ((250, 130, 30), (232, 232, 226)),
    ((230, 60, 50), GREY),
)
BOAT_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((176, 98, 44), WHITE),
    ((214, 44, 48), (250, 214, 70)),
    ((34, 84, 170), (255, 120, 60)),
    ((226, 60, 50), WHITE),
    ((150, 84, 40), (232, 60, 56)),
    ((30, 110, 120), (255, 200, 50)),
)


def wheel(pen: Pen, x: float, y: float, r: float, hub: Colour = STEEL) -> None:
    """Draw a tyre with a light hub."""
    pen.circle(x, y, r, TYRE)
    pen.circle(x, y, r * 0.5, hub)


def windows(pen: Pen, left: float, right: float, top: float, bottom: float, count: int) -> None:
    """Draw a row of equal window panes."""
    step = (right - left) / count
    for i in range(count):
        pen.rectangle(left + i * step + 0.01, top, left + (i + 1) * step - 0.01, bottom, GLASS, radius=0.015)


def cycle_wheel(pen: Pen, x: float, y: float, r: float) -> None:
    """Draw a spoked wheel that one can see through."""
    for i in range(4):
        angle = math.pi * (i + 0.5) / 4
        dx, dy = 0.9 * r * math.cos(angle), 0.9 * r * math.sin(angle)
        pen.line([(x - dx, y - dy), (x + dx, y + dy)], STEEL, 0.01)
    pen.circle(x, y, r, None, TYRE, 0.036)
    pen.circle(x, y, 0.028, STEEL)


def bicycle(pen: Pen, variant: int) -> None:
    """Draw a bicycle from the side."""
    colour = BICYCLE_COLOURS[variant % len(BICYCLE_COLOURS)]
    rear, front, crank = (0.25, 0.62), (0.75, 0.62), (0.46, 0.64)
    seat, head = (0.38, 0.36), (0.64, 0.34)
    city = variant % 2 == 1
    for x, y in (rear, front):
        cycle_wheel(pen, x, y, 0.21)
    top = [(0.42, 0.5), (0.55, 0.5), head] if city else [seat, head]
    pen.line([seat, (0.36, 0.27)], INK, 0.03)
    for bar in ([rear, crank], [seat, rear], top, [crank, head], [head, front], [seat, crank]):
        pen.curve(bar, INK, 0.066)
    for bar in ([rear, crank], [seat, rear], top, [crank, head], [head, front], [seat, crank]):
        pen.curve(bar, colour, 0.036)
    pen.blob([(0.26, 0.24), (0.36, 0.24), (0.46, 0.255), (0.36, 0.285), (0.27, 0.285)], TYRE)
    if city:
        pen.line([head, (0.62, 0.2)], INK, 0.034)
        pen.curve([(0.52, 0.24), (0.56, 0.18), (0.64, 0.17)], INK, 0.04)
        pen.polygon([(0.69, 0.22), (0.93, 0.22), (0.89, 0.37), (0.73, 0.37)], WOOD)
        pen.line([(0.7, 0.27), (0.91, 0.27)])
    else:
        pen.line([head, (0.62, 0.25), (0.7, 0.23)], INK, 0.034)
        pen.curve([(0.7, 0.23), (0.79, 0.24), (0.79, 0.33), (0.7, 0.34)], INK, 0.04)
    pen.circle(*crank, 0.05, STEEL)
    pen.line([crank, (0.51, 0.74), (0.56, 0.74)], INK, 0.026)


def car_front(pen: Pen, colour: Colour) -> None:
    """Draw a car from the front."""
    for x in (0.12, 0.72):
        pen.rectangle(x, 0.68, x + 0.16, 0.86, TYRE, radius=0.04)
    for x in (0.08, 0.92):
        pen.ellipse(x, 0.42, 0.05, 0.035, colour)
    pen.polygon([(0.28, 0.16), (0.72, 0.16), (0.86, 0.46), (0.14, 0.46)], colour)
    pen.polygon([(0.32, 0.21), (0.68, 0.21), (0.78, 0.44), (0.22, 0.44)], GLASS)
    pen.rectangle(0.06, 0.43, 0.94, 0.77, colour, radius=0.1)
    for x in (0.2, 0.8):
        pen.circle(x, 0.57, 0.08, (255, 244, 170))
    pen.rectangle(0.33, 0.53, 0.67, 0.63, TYRE, radius=0.03)
    pen.rectangle(0.04, 0.68, 0.96, 0.77, STEEL, radius=0.03)


def car(pen: Pen, variant: int) -> None:
    """Draw a car: a saloon or a beetle from the side, or the front."""
    colour = CAR_COLOURS[variant % len(CAR_COLOURS)]
    if variant % 6 == 5:
        car_front(pen, colour)
        return
    if variant % 3 == 1:
        pen.blob(
            [
                (0.08, 0.66),
                (0.08, 0.53),
                (0.16, 0.38),
                (0.32, 0.26),
                (0.5, 0.235),
                (0.66, 0.32),
                (0.74, 0.45),
                (0.87, 0.49),
                (0.93, 0.58),
                (0.92, 0.66),
                (0.5, 0.69),
            ],
            colour,
        )
        pen.blob([(0.22, 0.46), (0.28, 0.35), (0.42, 0.305), (0.425, 0.46)], GLASS)
        pen.blob([(0.49, 0.305), (0.58, 0.335), (0.665, 0.46), (0.49, 0.465)], GLASS)
    else:
        pen.polygon([(0.2, 0.48), (0.29, 0.27), (0.6, 0.27), (0.75, 0.48)], colour)
        pen.polygon([(0.265, 0.46), (0.325, 0.32), (0.43, 0.32), (0.43, 0.46)], GLASS)
        pen.polygon([(0.48, 0.32), (0.575, 0.32), (0.68, 0.46), (0.48, 0.46)], GLASS)
        pen.polygon(
            [(0.05, 0.5), (0.09, 0.455), (0.74, 0.455), (0.91, 0.5), (0.95, 0.57), (0.95, 0.67), (0.05, 0.67)], colour
        )
    pen.line([(0.455, 0.5), (0.455, 0.64)])
    pen.line([(0.49, 0.53), (0.54, 0.53)], INK, 0.022)
    pen.ellipse(0.91, 0.565, 0.03, 0.038, (255, 240, 130))
    pen.rectangle(0.045, 0.53, 0.09, 0.6, (255, 90, 60))
    for x in (0.25, 0.75):
        wheel(pen, x, 0.66, 0.115)


def airplane_above(pen: Pen, body: Colour, accent: Colour) -> None:
    """Draw an airplane from above, nose to the upper right."""

    def place(points: Sequence[Point]) -> list[Point]:
        return turned(points, 40)

    for side in (-1, 1):
        tip, tail = 0.5 + 0.44 * side, 0.5 + 0.18 * side
        pen.polygon(place([(0.5, 0.36), (tip, 0.58), (tip, 0.67), (0.5, 0.58)]), accent)
        pen.polygon(place([(0.5, 0.78), (tail, 0.88), (tail, 0.94), (0.5, 0.9)]), accent)
        pen.tube(place([(0.5 + 0.2 * side, 0.41), (0.5 + 0.2 * side, 0.5)]), body, 0.05)
    pen.blob(
        place(
            [
                (0.5, 0.02),
                (0.56, 0.1),
                (0.575, 0.3),
                (0.57, 0.6),
                (0.53, 0.9),
                (0.5, 0.96),
                (0.47, 0.9),
                (0.43, 0.6),
                (0.425, 0.3),
                (0.44, 0.1),
            ]
        ),
        body,
    )
    pen.polygon(place([(0.46, 0.13), (0.5, 0.09), (0.54, 0.13), (0.53, 0.17), (0.47, 0.17)]), (60, 110, 170))


def airplane(pen: Pen, variant: int) -> None:
    """Draw an airliner climbing, from the side, or from above."""
    body, accent = AIRPLANE_COLOURS[variant % len(AIRPLANE_COLOURS)]
    if variant % 2 == 1:
        airplane_above(pen, body, accent)
        return
    tilt = -14 if variant % 4 == 0 else 0

    def place(points: Sequence[Point]) -> list[Point]:
        return turned([(0.04 + 0.93 * x, 0.04 + 0.93 * y) for x, y in points], tilt)

    pen.polygon(place([(0.48, 0.46), (0.34, 0.24), (0.42, 0.24), (0.64, 0.46)]), accent)
    pen.polygon(place([(0.1, 0.48), (0.06, 0.2), (0.15, 0.2), (0.3, 0.46)]), accent)
    pen.blob(
        place(
            [
                (0.05, 0.46),
                (0.25, 0.425),
                (0.55, 0.42),
                (0.8, 0.43),
                (0.91, 0.48),
                (0.95, 0.54),
                (0.9, 0.58),
                (0.75, 0.605),
                (0.45, 0.605),
                (0.22, 0.55),
            ]
        ),
        body,
    )
    pen.polygon(place([(0.05, 0.5), (0.18, 0.47), (0.25, 0.5), (0.1, 0.57)]), accent)
    pen.polygon(place([(0.81, 0.455), (0.875, 0.47), (0.905, 0.505), (0.81, 0.505)]), (60, 110, 170))
    for i in range(5):
        ((x, y),) = place([(0.36 + i * 0.09, 0.485)])
        pen.circle(x, y, 0.024, (60, 110, 170), None)
    pen.tube(place([(0.42, 0.68), (0.52, 0.68)]), STEEL, 0.07)
    pen.polygon(place([(0.44, 0.55), (0.62, 0.55), (0.33, 0.82), (0.24, 0.82)]), accent)


def school_bus(pen: Pen, colour: Colour) -> None:
    """Draw a bus with a bonnet from the side."""
    pen.rectangle(0.74, 0.48, 0.96, 0.7, colour, radius=0.04)
    pen.rectangle(0.04, 0.26, 0.82, 0.7, colour, radius=0.05)
    windows(pen, 0.06, 0.63, 0.33, 0.47, 4)
    pen.rectangle(0.65, 0.33, 0.8, 0.68, GLASS, radius=0.015)
    pen.line([(0.725, 0.34), (0.725, 0.67)])
    pen.line([(0.05, 0.55), (0.64, 0.55)], INK, 0.03)
    pen.circle(0.93, 0.56, 0.028, (255, 246, 190))


def bus(pen: Pen, variant: int) -> None:
    """Draw a bus from the side: with a bonnet, with two decks, or a long flat one."""
    colour = BUS_COLOURS[variant % len(BUS_COLOURS)]
    kind = variant % 3
    base = 0.7
    if kind == 0:
        school_bus(pen, colour)
    elif kind == 1:
        base = 0.82
        pen.rectangle(0.06, 0.1, 0.94, base, colour, radius=0.06)
        windows(pen, 0.08, 0.92, 0.17, 0.33, 5)
        pen.rectangle(0.06, 0.38, 0.94, 0.44, WHITE)
        windows(pen, 0.08, 0.72, 0.49, 0.63, 4)
        pen.rectangle(0.75, 0.49, 0.89, base - 0.02, GLASS, radius=0.015)
        pen.line([(0.82, 0.5), (0.82, base - 0.03)])
    else:
        pen.rectangle(0.04, 0.28, 0.96, base, colour, radius=0.06)
        pen.rectangle(0.04, 0.56, 0.96, 0.61, WHITE)
        windows(pen, 0.06, 0.66, 0.34, 0.5, 4)
        pen.rectangle(0.68, 0.34, 0.8, base - 0.02, GLASS, radius=0.015)
        pen.line([(0.74, 0.35), (0.74, base - 0.03)])
        pen.rectangle(0.83, 0.34, 0.95, 0.52, GLASS, radius=0.015)
    for x in (0.2, 0.58) if kind != 0 else (0.2, 0.84):
        wheel(pen, x, base, 0.085)


def rails(pen: Pen, y: float) -> None:
    """Draw a piece of track from the side."""
    for i in range(6):
        pen.rectangle(0.06 + i * 0.16, y + 0.02, 0.14 + i * 0.16, y + 0.07, WOOD, width=0.01)
    pen.line([(0.05, y + 0.01), (0.95, y + 0.01)], INK, 0.034)


def train_front(pen: Pen, body: Colour, accent: Colour) -> None:
    """Draw a train coming along its track."""
    for i in range(3):
        half = 0.3 + 0.05 * i
        pen.rectangle(0.5 - half, 0.79 + 0.06 * i, 0.5 + half, 0.825 + 0.06 * i, WOOD, width=0.01)
    for side in (-1, 1):
        pen.line([(0.5 + 0.18 * side, 0.72), (0.5 + 0.32 * side, 0.95)], INK, 0.04)
    pen.polygon([(0.27, 0.1), (0.73, 0.1), (0.84, 0.3), (0.84, 0.77), (0.16, 0.77), (0.16, 0.3)], body)
    pen.polygon([(0.16, 0.54), (0.84, 0.54), (0.84, 0.77), (0.5, 0.66), (0.16, 0.77)], accent)
    for left in (0.24, 0.53):
        pen.rectangle(left, 0.25, left + 0.23, 0.46, GLASS, radius=0.03)
    for x, y in ((0.26, 0.6), (0.74, 0.6), (0.5, 0.17)):
        pen.circle(x, y, 0.045, (255, 246, 190))
    pen.polygon([(0.2, 0.77), (0.8, 0.77), (0.7, 0.87), (0.3, 0.87)], GREY)


def train(pen: Pen, variant: int) -> None:
    """Draw a steam locomotive from the side, or a train from the front."""
    body, accent = TRAIN_COLOURS[variant % len(TRAIN_COLOURS)]
    if variant % 4 == 3:
        train_front(pen, body, accent)
        return
    rails(pen, 0.85)
    for x, y, r in ((0.46, 0.12, 0.08), (0.6, 0.13, 0.09), (0.74, 0.17, 0.07)):
        pen.circle(x, y, r, WHITE)
    for x, y, r in ((0.5, 0.13, 0.055), (0.67, 0.14, 0.065)):
        pen.circle(x, y, r, WHITE, None)
    pen.polygon([(0.82, 0.68), (0.95, 0.84), (0.74, 0.84)], accent)
    pen.polygon([(0.68, 0.42), (0.65, 0.25), (0.83, 0.25), (0.8, 0.42)], TYRE)
    pen.pie(0.5, 0.42, 0.07, 0.09, 180, 360, YELLOW)
    pen.rectangle(0.34, 0.4, 0.88, 0.66, body, radius=0.05)
    for x in (0.5, 0.66):
        pen.line([(x, 0.41), (x, 0.65)], YELLOW, 0.026)
    pen.circle(0.88, 0.47, 0.04, (255, 240, 130))
    pen.rectangle(0.08, 0.27, 0.39, 0.72, body)
    pen.rectangle(0.14, 0.35, 0.33, 0.5, GLASS)
    pen.rectangle(0.04, 0.21, 0.43, 0.29, accent, radius=0.02)
    pen.rectangle(0.08, 0.65, 0.88, 0.73, accent)
    for x, r in ((0.22, 0.13), (0.49, 0.13), (0.72, 0.085)):
        pen.circle(x, 0.85 - r, r, accent)
        pen.circle(x, 0.85 - r, r * 0.45, STEEL)
    pen.line([(0.22, 0.73), (0.49, 0.73), (0.72, 0.765)], STEEL, 0.03)


def truck_cab(pen: Pen, colour: Colour, top: float) -> None:
    """Draw a driver's cab at the right end."""
    pen.polygon([(0.68, 0.71), (0.68, top), (0.85, top), (0.95, 0.52), (0.95, 0.71)], colour)
    pen.polygon([(0.74, 0.52), (0.74, top + 0.05), (0.83, top + 0.05), (0.895, 0.52)], GLASS)
    pen.line([(0.74, 0.57), (0.79, 0.57)], INK, 0.022)
    pen.rectangle(0.9, 0.58, 0.955, 0.64, (255, 240, 130))


def truck(pen: Pen, variant: int) -> None:
    """Draw a lorry from the side: a box, an articulated one, or a tipper with a load."""
    cab, cargo = TRUCK_COLOURS[variant % len(TRUCK_COLOURS)]
    kind = variant % 3
    pen.rectangle(0.06, 0.67, 0.94, 0.74, TYRE)
    if kind == 2:
        pen.blob([(0.1, 0.42), (0.18, 0.3), (0.3, 0.26), (0.42, 0.23), (0.53, 0.3), (0.6, 0.42)], EARTH)
        pen.polygon([(0.04, 0.38), (0.64, 0.38), (0.58, 0.66), (0.14, 0.66)], cargo)
        for x in (0.24, 0.37, 0.5):
            pen.line([(x, 0.4), (x, 0.64)], INK, 0.024)
    else:
        pen.rectangle(0.04, 0.16, 0.64, 0.67, cargo)
        pen.rectangle(0.05, 0.38, 0.63, 0.5, cab, None)
        if kind == 1:
            for x in (0.19, 0.34, 0.49):
                pen.line([(x, 0.18), (x, 0.65)], GREY, 0.016)
            pen.tube([(0.665, 0.24), (0.665, 0.6)], STEEL, 0.025)
    truck_cab(pen, cab, 0.32)
    for x in (0.14, 0.31, 0.81) if kind == 1 else (0.22, 0.81):
        wheel(pen, x, 0.74, 0.085 if kind == 1 else 0.1)


def sea(pen: Pen) -> None:
    """Draw a strip of waves."""
    crest = [(0.04 + i * 0.115, 0.82 + 0.028 * (i % 2)) for i in range(9)]
    pen.polygon([*crest, (0.96, 0.93), (0.04, 0.93)], WATER, None)
    pen.curve(crest, WHITE, 0.02)


def boat(pen: Pen, variant: int) -> None:
    """Draw a sailing boat, or a steamer with a funnel."""
    hull, accent = BOAT_COLOURS[variant % len(BOAT_COLOURS)]
    if variant % 2 == 0:
        pen.line([(0.48, 0.06), (0.48, 0.68)], INK, 0.04)
        pen.polygon([(0.52, 0.08), (0.52, 0.6), (0.9, 0.6)], accent)
        pen.polygon([(0.44, 0.16), (0.44, 0.6), (0.14, 0.6)], WHITE if accent != WHITE else (240, 70, 60))
        pen.polygon([(0.08, 0.66), (0.92, 0.66), (0.78, 0.88), (0.22, 0.88)], hull)
    else:
        pen.rectangle(0.44, 0.12, 0.6, 0.34, accent if accent != WHITE else YELLOW)
        pen.rectangle(0.44, 0.12, 0.6, 0.19, TYRE)
        pen.rectangle(0.3, 0.32, 0.7, 0.46, WHITE)
        pen.rectangle(0.22, 0.44, 0.78, 0.62, WHITE)
        for x in (0.34, 0.5, 0.66):
            pen.circle(x, 0.53, 0.045, GLASS)
        pen.polygon([(0.05, 0.6), (0.95, 0.54), (0.82, 0.88), (0.18, 0.88)], hull)
        pen.line([(0.1, 0.675), (0.89, 0.645)], WHITE, 0.03)
    sea(pen)


SPRITES: dict[str, tuple[Drawing, int]] = {
    "bicycle": (bicycle, 4),
    "car": (car, 6),
    "airplane": (airplane, 6),
    "bus": (bus, 6),
    "train": (train, 6),
    "truck": (truck, 6),
    "boat": (boat, 6),
}
