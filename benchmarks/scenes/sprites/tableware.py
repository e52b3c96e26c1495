"""Sprites of bottles, glasses, cups, cutlery and bowls."""

from __future__ import annotations

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

GLASS: Colour = (218, 238, 248, 215)
STEEL: Colour = (205, 213, 222)
SHINE: Colour = (242, 246, 250)
GOLD: Colour = (240, 190, 60)
WOOD: Colour = (196, 132, 74)
COFFEE: Colour = (104, 60, 32)
LETTUCE: Colour = (130, 204, 70)
NOODLE: Colour = (255, 216, 110)
YOLK: Colour = (255, 170, 30)
LACQUER: Colour = (190, 70, 40)
SOUP: Colour = (232, 84, 30)
GRAIN: Colour = (190, 190, 196)

# Glass, cap, label, band, degrees, half width of the body, height of the shoulder.
BOTTLES: tuple[tuple[Colour, Colour, Colour, Colour, float, float, float], ...] = (
    ((40, 140, 70), (214, 50, 50), CREAM, RED, 0, 0.160, 0.42),
    ((150, 82, 30), GOLD, (250, 214, 90), (160, 40, 30), 0, 0.180, 0.46),
    ((110, 190, 240), (30, 80, 190), WHITE, (30, 80, 190), 0, 0.170, 0.34),
    ((40, 140, 70), GOLD, CREAM, (30, 90, 50), 24, 0.160, 0.42),
    ((110, 34, 60), (60, 30, 40), CREAM, (150, 40, 70), 0, 0.155, 0.45),
    ((150, 82, 30), RED, WHITE, RED, -24, 0.170, 0.44),
)
# Wine, degrees, half width of the bowl, depth of the bowl's foot, level of the wine.
WINES: tuple[tuple[Colour, float, float, float, float], ...] = (
    ((160, 16, 50), 0, 0.25, 0.56, 0.26),
    ((246, 216, 96), 0, 0.22, 0.56, 0.26),
    ((160, 16, 50), 12, 0.24, 0.56, 0.24),
    ((246, 130, 140), 0, 0.19, 0.60, 0.24),
    ((128, 10, 40), 0, 0.28, 0.58, 0.30),
    ((246, 216, 96), -12, 0.22, 0.56, 0.24),
)
# Body, decoration, whether it is a tea cup on a saucer, whether it is mirrored.
CUPS: tuple[tuple[Colour, Colour, bool, bool], ...] = (
    ((220, 52, 48), WHITE, False, False),
    ((50, 110, 210), (250, 214, 90), False, True),
    (WHITE, RED, False, False),
    ((250, 200, 60), WHITE, True, False),
    ((60, 170, 110), WHITE, False, True),
    ((240, 140, 180), WHITE, True, True),
)
HOLLOWS: dict[Colour, Colour] = {STEEL: (150, 162, 178), GOLD: (176, 128, 24), WOOD: (150, 96, 48)}
# Metal, handle, degrees.
FORKS: tuple[tuple[Colour, Colour, float], ...] = (
    (STEEL, STEEL, 0),
    (STEEL, RED, 0),
    (STEEL, STEEL, 35),
    (GOLD, GOLD, -30),
    (STEEL, (50, 110, 210), 30),
)
# Handle, degrees, whether the blade is a table knife's.
KNIVES: tuple[tuple[Colour, float, bool], ...] = (
    ((44, 46, 56), 0, False),
    (RED, 0, True),
    (WOOD, 40, False),
    ((50, 110, 210), -35, True),
    ((240, 150, 30), -40, False),
)
# Bowl, handle, degrees.
SPOONS: tuple[tuple[Colour, Colour, float], ...] = (
    (STEEL, STEEL, 0),
    (WOOD, WOOD, 0),
    (STEEL, STEEL, 35),
    (GOLD, GOLD, -32),
    (STEEL, (60, 170, 110), -30),
)
# Bowl, stripe, content.
BOWLS: tuple[tuple[Colour, Colour, str], ...] = (
    ((60, 120, 210), WHITE, "salad"),
    ((214, 60, 50), GOLD, "rice"),
    ((52, 54, 66), RED, "noodles"),
    ((250, 236, 210), (40, 150, 150), "soup"),
    ((60, 170, 150), CREAM, "salad"),
    ((250, 180, 60), WHITE, "noodles"),
)


def bottle(pen: Pen, variant: int) -> None:
    """Draw a bottle with a cap and a label."""
    glass, cap, label, band, degrees, half, shoulder = BOTTLES[variant]
    side, neck = 0.5 - half, 0.5 - 0.062
    body = [
        (neck, 0.10),
        (neck, shoulder - 0.12),
        *smooth(
            [
                (neck, shoulder - 0.12),
                (neck - 0.02, shoulder - 0.07),
                (side + 0.02, shoulder - 0.01),
                (side, shoulder + 0.07),
            ],
            closed=False,
        ),
        (side, 0.91),
        (side + 0.03, 0.95),
    ]
    pen.polygon(turn(profile(body), degrees), glass)
    shine = [(side + 0.05, shoulder + 0.06), (side + 0.05, 0.90)]
    pen.line(turn(shine, degrees), WHITE, 0.03)
    top = shoulder + 0.13
    pen.polygon(turn(bar(side, top, 1 - side, 0.83), degrees), label)
    pen.polygon(turn(bar(side, top + 0.08, 1 - side, top + 0.18), degrees), band, None)
    pen.polygon(turn(bar(side, top, 1 - side, 0.83), degrees), None)
    pen.polygon(turn(bar(0.5 - 0.085, 0.04, 0.5 + 0.085, 0.135), degrees), cap)


def wine_glass(pen: Pen, variant: int) -> None:
    """Draw a wine glass, half full."""
    wine, degrees, half, depth, level = WINES[variant]
    left = smooth(
        [(0.5 - half * 0.8, 0.06), (0.5 - half, 0.28), (0.5 - half * 0.72, depth - 0.11), (0.5, depth)], closed=False
    )
    full = [(x, y) for x, y in left if y >= level]
    foot = [(0.5, 0.84), (0.42, 0.875), (0.29, 0.905), (0.29, 0.94), (0.5, 0.94)]
    pen.polygon(turn(bar(0.475, depth - 0.02, 0.525, 0.90), degrees), GLASS)
    pen.polygon(turn(profile(foot), degrees), GLASS)
    pen.polygon(turn(profile(left), degrees), GLASS)
    pen.polygon(turn(profile(full), degrees), wine, width=0.010)
    pen.polygon(turn(profile(left), degrees), None, width=0.020)
    shine = [(0.5 + half * 0.68, level + 0.05), (0.5 + half * 0.62, depth - 0.18)]
    pen.curve(turn(shine, degrees), WHITE, 0.028)


def _steam(pen: Pen, x: float, top: float, bottom: float) -> None:
    """Draw a wisp of steam."""
    step = (bottom - top) / 3
    wave = [(x + 0.025 * (-1) ** i, top + step * i) for i in range(4)]
    pen.tube(wave, WHITE, 0.038, outline=0.012)


def cup(pen: Pen, variant: int) -> None:
    """Draw a mug or a tea cup, steaming."""
    body, spot, saucer, mirrored = CUPS[variant]
    bottom, middle = (0.86, 0.42) if saucer else (0.95, 0.41)
    if saucer:
        pen.ellipse(0.5, 0.88, 0.46, 0.075, spot)
        belly = [(0.08, 0.40), (0.13, 0.64), (0.28, bottom), (middle, bottom)]
        side = [(0.08, 0.36), *smooth(belly, closed=False)]
        right = [(2 * middle - x, y) for x, y in reversed(side)]
        handle = [(0.72, 0.45), (0.86, 0.43), (0.89, 0.54), (0.82, 0.64), (0.66, 0.68)]
    else:
        side = [(0.11, 0.34), (0.13, bottom - 0.05), (0.18, bottom), (middle, bottom)]
        right = [(2 * middle - x, y) for x, y in reversed(side)]
        handle = [(0.70, 0.46), (0.84, 0.44), (0.90, 0.58), (0.85, 0.74), (0.69, 0.78)]
    for i in (-1, 0, 1):
        _steam(pen, *mirror([(middle + 0.14 * i, 0.06 if i == 0 else 0.10)], mirrored)[0], 0.27)
    pen.tube(mirror(handle, mirrored), body, 0.065)
    pen.polygon(mirror([*side, *right], mirrored), body)
    x = 1 - middle if mirrored else middle
    rim = middle - side[0][0]
    pen.ellipse(x, 0.36, rim, 0.075, body)
    pen.ellipse(x, 0.37, rim - 0.045, 0.048, COFFEE)
    if saucer:
        pen.curve([(x - 0.22, 0.56), (x, 0.62), (x + 0.22, 0.56)], spot, 0.045)
    elif body == WHITE:
        pen.blob([(x, 0.84), (x - 0.13, 0.68), (x - 0.09, 0.57), (x, 0.62), (x + 0.09, 0.57), (x + 0.13, 0.68)], spot)
    else:
        pen.circle(x, 0.68, 0.115, spot)


def fork(pen: Pen, variant: int) -> None:
    """Draw a fork with four tines."""
    metal, grip, degrees = FORKS[variant]
    pen.polygon(turn(profile([(0.5, 0.46), (0.462, 0.50), (0.470, 0.64), (0.5, 0.64)]), degrees), metal)
    handle = smooth([(0.465, 0.58), (0.455, 0.70), (0.435, 0.88), (0.455, 0.945), (0.5, 0.955)], closed=False)
    head: list[Point] = []
    for i in range(4):
        x = 0.29 + 0.12 * i
        head += [(x, 0.34), (x, 0.09), (x + 0.03, 0.045), (x + 0.06, 0.09), (x + 0.06, 0.34)]
    head += smooth(
        [(0.71, 0.34), (0.69, 0.44), (0.60, 0.51), (0.5, 0.54), (0.40, 0.51), (0.31, 0.44), (0.29, 0.34)], closed=False
    )
    pen.polygon(turn(profile(handle), degrees), grip)
    pen.polygon(turn(head, degrees), metal)
    pen.curve(turn([(0.36, 0.41), (0.43, 0.46), (0.57, 0.46)], degrees), SHINE, 0.022)


def knife(pen: Pen, variant: int) -> None:
    """Draw a knife with a broad blade."""
    grip, degrees, table = KNIVES[variant]
    if table:
        edge = smooth(
            [(0.40, 0.60), (0.37, 0.40), (0.37, 0.20), (0.43, 0.07), (0.52, 0.045), (0.58, 0.12)], closed=False
        )
        blade = [*edge, (0.58, 0.62), (0.42, 0.62)]
    else:
        edge = smooth([(0.36, 0.62), (0.34, 0.44), (0.37, 0.24), (0.46, 0.11), (0.585, 0.04)], closed=False)
        blade = [*edge, (0.585, 0.62)]
    handle = smooth(
        [
            (0.445, 0.62),
            (0.45, 0.70),
            (0.44, 0.84),
            (0.435, 0.93),
            (0.51, 0.955),
            (0.59, 0.93),
            (0.58, 0.84),
            (0.58, 0.70),
            (0.585, 0.62),
        ],
        closed=False,
    )
    pen.polygon(turn(blade, degrees, 1.18), STEEL)
    pen.line(turn([(0.545, 0.20), (0.545, 0.58)], degrees, 1.18), SHINE, 0.035)
    pen.polygon(turn(handle, degrees, 1.18), grip)
    pen.polygon(turn(bar(0.415, 0.595, 0.605, 0.645), degrees, 1.18), GOLD)
    for y in (0.73, 0.85):
        (spot,) = turn([(0.513, y)], degrees, 1.18)
        pen.circle(*spot, 0.020, WHITE, None)


def spoon(pen: Pen, variant: int) -> None:
    """Draw a spoon with a big bowl."""
    metal, grip, degrees = SPOONS[variant]
    handle = smooth(
        [(0.470, 0.44), (0.474, 0.58), (0.455, 0.74), (0.425, 0.89), (0.445, 0.945), (0.5, 0.955)], closed=False
    )
    edge = smooth(
        [(0.5, 0.045), (0.45, 0.053), (0.375, 0.115), (0.315, 0.27), (0.355, 0.43), (0.44, 0.51), (0.5, 0.535)],
        closed=False,
    )
    inner = [(0.5 + (x - 0.5) * 0.70, 0.28 + (y - 0.28) * 0.74) for x, y in edge]
    pen.polygon(turn(profile(handle), degrees), grip)
    pen.polygon(turn(profile(edge), degrees), metal)
    pen.polygon(turn(profile(inner), degrees), HOLLOWS[metal], None)
    pen.curve(turn(oval(0.5, 0.27, 0.080, 0.135, 180, 255)[::8], degrees), WHITE, 0.030)


def _salad(pen: Pen) -> None:
    """Draw a heap of leaves with tomatoes."""
    leaves = (
        (0.22, 0.42, 0.13, LEAF),
        (0.78, 0.42, 0.13, LEAF),
        (0.38, 0.30, 0.15, LETTUCE),
        (0.64, 0.32, 0.15, LEAF),
        (0.50, 0.42, 0.14, LETTUCE),
    )
    for x, y, r, colour in leaves:
        pen.circle(x, y, r, colour)
    for x, y in ((0.31, 0.42), (0.55, 0.31), (0.71, 0.43)):
        pen.circle(x, y, 0.085, RED)


def _rice(pen: Pen) -> None:
    """Draw a heap of rice."""
    pen.blob([(0.12, 0.50), (0.18, 0.34), (0.32, 0.22), (0.5, 0.17), (0.68, 0.22), (0.82, 0.34), (0.88, 0.50)], WHITE)
    for x, y in ((0.30, 0.38), (0.44, 0.27), (0.47, 0.42), (0.60, 0.33), (0.70, 0.43)):
        pen.line([(x, y), (x + 0.05, y - 0.02)], GRAIN, 0.020)


def _noodles(pen: Pen) -> None:
    """Draw noodles with chopsticks stuck into them."""
    for x in (0.80, 0.92):
        pen.line([(x, 0.09), (0.50, 0.50)], INK, 0.060)
        pen.line([(x, 0.09), (0.50, 0.50)], LACQUER, 0.030)
    pen.blob([(0.11, 0.50), (0.20, 0.35), (0.36, 0.28), (0.62, 0.28), (0.80, 0.35), (0.89, 0.50)], NOODLE)
    for x in (0.26, 0.42, 0.58, 0.74):
        pen.curve([(x - 0.10, 0.44), (x - 0.04, 0.36), (x + 0.02, 0.42), (x - 0.03, 0.47)], PEEL_SHADE, 0.020)
    pen.ellipse(0.32, 0.31, 0.12, 0.085, WHITE)
    pen.ellipse(0.32, 0.31, 0.06, 0.045, YOLK, None)


def bowl(pen: Pen, variant: int) -> None:
    """Draw a wide bowl, full."""
    body, stripe, content = BOWLS[variant]
    if content == "salad":
        _salad(pen)
    elif content == "rice":
        _rice(pen)
    elif content == "noodles":
        _noodles(pen)
    pen.polygon(bar(0.34, 0.84, 0.66, 0.90), body)
    pen.polygon(oval(0.5, 0.47, 0.44, 0.40, 0, 180), body)
    band = [*oval(0.5, 0.50, 0.40, 0.16, 10, 170), *oval(0.5, 0.57, 0.385, 0.16, 170, 10)]
    pen.polygon(band, stripe, None)
    if content == "soup":
        pen.ellipse(0.5, 0.44, 0.46, 0.15, body)
        pen.ellipse(0.5, 0.45, 0.39, 0.11, SOUP)
        for x, y in ((0.32, 0.44), (0.52, 0.49), (0.66, 0.42)):
            pen.ellipse(x, y, 0.055, 0.03, LEAF, None)
    else:
        pen.rectangle(0.04, 0.44, 0.96, 0.525, body, radius=0.04)


SPRITES: dict[str, tuple[Drawing, int]] = {
    "bottle": (bottle, len(BOTTLES)),
    "wine glass": (wine_glass, len(WINES)),
    "cup": (cup, len(CUPS)),
    "fork": (fork, len(FORKS)),
    "knife": (knife, len(KNIVES)),
    "spoon": (spoon, len(SPOONS)),
    "bowl": (bowl, len(BOWLS)),
}
