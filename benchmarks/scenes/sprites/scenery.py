"""Sprites of things that fill a picture but belong to no benchmark category."""

from __future__ import annotations

from mmhall.benchmarks.scenes.pen import INK, Colour, Drawing, Pen, Point
from mmhall.benchmarks.scenes.sprites.outdoor import oval, turned

WHITE: Colour = (250, 248, 242)
METAL: Colour = (206, 210, 216)
BARK: Colour = (134, 86, 48)
IRON: Colour = (58, 62, 76)
GLASS: Colour = (150, 214, 244)

# Crown, its light side.
TREES: tuple[tuple[Colour, Colour], ...] = (
    ((62, 152, 62), (112, 192, 84)),
    ((28, 116, 78), (66, 158, 104)),
    ((232, 132, 40), (250, 180, 74)),
)

# Walls, roof, door.
HOUSES: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((250, 232, 190), (206, 60, 50), (126, 78, 44)),
    ((236, 240, 244), (58, 96, 168), (206, 66, 56)),
    ((240, 176, 150), (98, 70, 66), (48, 128, 112)),
)

# Cloud, its shaded underside.
CLOUDS: tuple[tuple[Colour, Colour], ...] = (
    ((252, 252, 252), (204, 222, 240)),
    ((176, 188, 206), (130, 144, 168)),
    ((255, 232, 226), (246, 190, 186)),
)

# Lit face, middle, shaded face.
ROCKS: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((190, 192, 196), (148, 150, 158), (106, 108, 118)),
    ((206, 184, 158), (166, 140, 114), (122, 98, 78)),
    ((168, 178, 194), (122, 134, 154), (80, 92, 112)),
)

# Post, light.
STREET_LAMPS: tuple[tuple[Colour, Colour], ...] = (
    (IRON, (255, 226, 92)),
    ((36, 92, 72), (255, 236, 150)),
    ((58, 62, 92), (255, 210, 70)),
)

# Pickets, rails.
FENCES: tuple[tuple[Colour, Colour], ...] = (
    ((250, 248, 242), (214, 216, 222)),
    ((190, 128, 72), (146, 90, 46)),
    ((110, 178, 196), (66, 130, 150)),
)

# Shell, hoops and cords.
DRUMS: tuple[tuple[Colour, Colour], ...] = (
    ((216, 44, 48), (250, 200, 66)),
    ((40, 90, 190), (250, 248, 242)),
    ((42, 148, 94), (250, 200, 66)),
)

STICK: Colour = (214, 160, 96)

# Paper, ribbon.
GIFTS: tuple[tuple[Colour, Colour], ...] = (
    ((228, 56, 60), (254, 216, 84)),
    ((68, 150, 224), (250, 248, 242)),
    ((150, 84, 196), (126, 230, 160)),
)

# Wood or metal; then degrees of tilt.
LADDERS: tuple[tuple[Colour, float], ...] = (
    ((224, 164, 84), 14),
    ((206, 210, 218), -14),
    ((236, 92, 52), 0),
)

# Body, neck; then degrees of tilt.
GUITARS: tuple[tuple[Colour, Colour, float], ...] = (
    ((232, 152, 64), (110, 64, 38), 36),
    ((206, 58, 44), (70, 44, 36), -36),
    ((246, 206, 116), (126, 76, 44), 18),
)


def tree(pen: Pen, variant: int) -> None:
    """Draw a leafy tree, or a fir."""
    crown, light = TREES[variant]
    pen.polygon([(0.43, 0.6), (0.57, 0.6), (0.58, 0.88), (0.64, 0.95), (0.36, 0.95), (0.42, 0.88)], BARK)
    if variant == 1:
        for top, bottom, half in ((0.42, 0.84, 0.36), (0.23, 0.62, 0.3), (0.05, 0.4, 0.22)):
            pen.polygon([(0.5, top), (0.5 + half, bottom), (0.5 - half, bottom)], crown, width=0.022)
            pen.polygon([(0.49, top + 0.1), (0.49, bottom - 0.03), (0.56 - half, bottom - 0.03)], light, None)
        return
    puffs = ((0.25, 0.48, 0.19), (0.75, 0.48, 0.19), (0.35, 0.27, 0.19), (0.65, 0.27, 0.2), (0.5, 0.56, 0.18))
    _puffs(pen, puffs, crown)
    for x, y, r in ((0.36, 0.25, 0.1), (0.26, 0.45, 0.08), (0.6, 0.22, 0.07)):
        pen.circle(x, y, r, light, None)


def _puffs(pen: Pen, puffs: tuple[tuple[float, float, float], ...], fill: Colour) -> None:
    """Draw circles merged into one outlined shape."""
    for x, y, r in puffs:
        pen.circle(x, y, r + 0.022, INK, None)
    for x, y, r in puffs:
        pen.circle(x, y, r, fill, None)
    pen.polygon([(x, y) for x, y, _ in puffs[:2]] + [(x, y) for x, y, _ in reversed(puffs[2:4])], fill, None)


def house(pen: Pen, variant: int) -> None:
    """Draw a house with a pitched roof, a chimney, a door and a window."""
    wall, roof, door = HOUSES[variant]
    right = variant != 1
    pen.rectangle(0.7 if right else 0.18, 0.1, 0.82 if right else 0.3, 0.4, roof)
    pen.rectangle(0.14, 0.42, 0.86, 0.94, wall, width=0.022)
    pen.polygon([(0.5, 0.06), (0.96, 0.48), (0.04, 0.48)], roof, width=0.024)
    x = 0.22 if right else 0.54
    pen.rectangle(x, 0.58, x + 0.22, 0.94, door, width=0.02)
    pen.circle(x + 0.17, 0.77, 0.02, INK, None)
    x = 0.54 if right else 0.22
    pen.rectangle(x, 0.58, x + 0.23, 0.78, GLASS, width=0.02)
    pen.line([(x + 0.115, 0.59), (x + 0.115, 0.77)], INK, 0.018)
    pen.line([(x + 0.01, 0.68), (x + 0.22, 0.68)], INK, 0.018)


def cloud(pen: Pen, variant: int) -> None:
    """Draw a puffy cloud with a flat underside."""
    fill, shade = CLOUDS[variant]
    puffs: tuple[tuple[float, float, float], ...] = (
        (0.2, 0.6, 0.135),
        (0.8, 0.6, 0.135),
        (0.37, 0.47, 0.19),
        (0.63, 0.42, 0.23),
        (0.5, 0.58, 0.15),
    )
    if variant == 1:
        puffs = tuple((1 - x, y, r) for x, y, r in puffs)
    for x, y, r in puffs:
        pen.circle(x, y, r + 0.022, INK, None)
    pen.rectangle(0.2, 0.5, 0.8, 0.757, INK, None)
    for x, y, r in puffs:
        pen.circle(x, y, r, fill, None)
    pen.rectangle(0.2, 0.5, 0.8, 0.735, fill, None)
    pen.rectangle(0.12, 0.665, 0.88, 0.735, shade, None, radius=0.035)


def rock(pen: Pen, variant: int) -> None:
    """Draw a faceted boulder, or two."""
    light, middle, dark = ROCKS[variant]
    if variant == 1:
        _boulder(pen, 0.5, 0.12, 0.46, light, middle, dark)
        _boulder(pen, 0.05, 0.42, 0.44, light, middle, dark)
        return
    width = 0.92 if variant == 0 else 0.8
    _boulder(pen, 0.5 - width / 2, 0.18, width, light, middle, dark)


def _boulder(pen: Pen, left: float, top: float, width: float, light: Colour, middle: Colour, dark: Colour) -> None:
    """Draw one boulder of three facets standing on y = 0.86."""

    def at(*points: Point) -> list[Point]:
        return [(left + x * width, top + y * (0.86 - top)) for x, y in points]

    outline = at((0, 0.8), (0.1, 0.36), (0.38, 0.02), (0.68, 0), (0.92, 0.36), (1, 0.8), (0.9, 1), (0.08, 1))
    pen.polygon(outline, middle, None)
    pen.polygon(at((0.1, 0.36), (0.38, 0.02), (0.68, 0), (0.52, 0.36), (0.26, 0.5)), light, None)
    pen.polygon(at((0.68, 0), (0.92, 0.36), (1, 0.8), (0.9, 1), (0.62, 1), (0.52, 0.36)), dark, None)
    pen.line(at((0.3, 0.62), (0.38, 0.78), (0.34, 0.88)), INK, 0.016)
    pen.polygon(outline, None, width=0.026)


def street_lamp(pen: Pen, variant: int) -> None:
    """Draw a street lamp: a lantern on a post, or one hanging from a bent post."""
    post, light = STREET_LAMPS[variant]
    x = 0.5 if variant == 0 else 0.36
    pen.polygon([(x - 0.11, 0.95), (x - 0.09, 0.87), (x + 0.09, 0.87), (x + 0.11, 0.95)], post)
    if variant == 0:
        pen.tube([(x, 0.38), (x, 0.88)], post, 0.05)
        pen.tube([(x - 0.13, 0.42), (x + 0.13, 0.42)], post, 0.03)
        _lantern(pen, x, 0.06, post, light)
        return
    pen.tube([(x, 0.88), (x, 0.4), (x + 0.01, 0.2), (x + 0.12, 0.09), (x + 0.26, 0.1), (x + 0.31, 0.18)], post, 0.045)
    if variant == 1:
        _lantern(pen, x + 0.31, 0.16, post, light)
        return
    pen.pie(x + 0.31, 0.31, 0.13, 0.13, 0, 180, light, width=0.02)
    pen.pie(x + 0.31, 0.32, 0.2, 0.16, 180, 360, post, width=0.02)


def _lantern(pen: Pen, x: float, top: float, post: Colour, light: Colour) -> None:
    """Draw a lantern with a lit pane."""
    upper, lower = top + 0.1, top + 0.34
    pane = [(x - 0.14, upper), (x + 0.14, upper), (x + 0.085, lower), (x - 0.085, lower)]
    pen.polygon(pane, light, width=0.022)
    pen.line([(x, upper), (x, lower)], INK, 0.018)
    pen.polygon([(x, top), (x + 0.18, top + 0.11), (x - 0.18, top + 0.11)], post, width=0.02)


def fence(pen: Pen, variant: int) -> None:
    """Draw a garden fence of pickets on two rails."""
    picket, rail = FENCES[variant]
    for y in (0.4, 0.68):
        pen.rectangle(0.04, y, 0.96, y + 0.09, rail)
    for i in range(5):
        x = 0.14 + 0.18 * i
        top = 0.22 + (0.05 * abs(i - 2) if variant == 1 else 0)
        tip = [(x - 0.06, top + 0.1), (x, top), (x + 0.06, top + 0.1)]
        if variant == 2:
            tip = oval(x, top + 0.08, 0.06, 0.06, 180, 360)
        pen.polygon([*tip, (x + 0.06, 0.86), (x - 0.06, 0.86)], picket, width=0.02)


def drum(pen: Pen, variant: int) -> None:
    """Draw a drum with corded sides and two drumsticks."""
    shell, hoop = DRUMS[variant]
    side = [*oval(0.5, 0.43, 0.4, 0.15, 180, 360), *oval(0.5, 0.77, 0.4, 0.15, 0, 180)]
    pen.polygon(side, shell, width=0.022)
    low, high = oval(0.5, 0.77, 0.4, 0.15, 170, 10), oval(0.5, 0.49, 0.4, 0.15, 170, 10)
    cord = [(high if i % 2 else low)[8 * i] for i in range(7)]
    pen.line(cord, hoop, 0.03)
    for y in (0.44, 0.77):
        pen.line(oval(0.5, y, 0.4, 0.15, 180, 0), INK, 0.085)
        pen.line(oval(0.5, y, 0.4, 0.15, 180, 0), hoop, 0.05)
    pen.ellipse(0.5, 0.41, 0.42, 0.16, WHITE, width=0.024)
    sticks = (((0.12, 0.08), (0.44, 0.4)), ((0.88, 0.08), (0.56, 0.4)))
    if variant == 1:
        sticks = (((0.3, 0.06), (0.6, 0.42)), ((0.7, 0.06), (0.4, 0.42)))
    for start, end in sticks:
        pen.tube([start, end], STICK, 0.03)
        pen.circle(*end, 0.045, STICK)


def gift_box(pen: Pen, variant: int) -> None:
    """Draw a wrapped present with a ribbon and a bow."""
    paper, ribbon = GIFTS[variant]
    top = 0.4 if variant == 2 else 0.46
    pen.rectangle(0.12, top, 0.88, 0.95, paper, width=0.022)
    pen.rectangle(0.42, top, 0.58, 0.95, ribbon)
    pen.rectangle(0.06, top - 0.13, 0.94, top + 0.04, paper, width=0.022)
    pen.rectangle(0.42, top - 0.13, 0.58, top + 0.04, ribbon)
    y = top - 0.14
    for side in (-1, 1):
        if variant == 1:
            wing = [(0.5, y), (0.5 + 0.3 * side, y - 0.22), (0.5 + 0.34 * side, y)]
            pen.polygon(wing, ribbon, width=0.022)
        else:
            pen.blob(
                [(0.5, y), (0.5 + 0.1 * side, y - 0.19), (0.5 + 0.29 * side, y - 0.2), (0.5 + 0.31 * side, y - 0.06)],
                ribbon,
                width=0.022,
            )
    pen.circle(0.5, y - 0.03, 0.07, ribbon, width=0.022)


def ladder(pen: Pen, variant: int) -> None:
    """Draw a leaning ladder, or a stepladder."""
    fill, tilt = LADDERS[variant]
    if variant == 2:
        for foot in (0.78, 0.9):
            pen.tube([(0.56, 0.1), (foot, 0.93)], METAL, 0.04)
    left, right = (
        (((0.4, 0.08), (0.16, 0.93)), ((0.6, 0.08), (0.66, 0.93)))
        if variant == 2
        else (((0.34, 0.11), (0.34, 0.89)), ((0.66, 0.11), (0.66, 0.89)))
    )
    for i in range(5):
        t = 0.12 + 0.19 * i
        rung = [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for a, b in (left, right)]
        pen.tube(turned(rung, tilt), fill, 0.045)
    for rail in (left, right):
        pen.tube(turned(rail, tilt), fill, 0.055)


def guitar(pen: Pen, variant: int) -> None:
    """Draw an acoustic guitar."""
    body, neck, tilt = GUITARS[variant]
    pen.polygon(turned([(0.46, 0.02), (0.54, 0.02), (0.55, 0.14), (0.45, 0.14)], tilt), neck)
    for y in (0.05, 0.1):
        for x in (0.425, 0.575):
            pen.circle(*turned([(x, y)], tilt)[0], 0.02, METAL, width=0.01)
    right = [(0.58, 0.47), (0.655, 0.53), (0.62, 0.63), (0.7, 0.74), (0.695, 0.87), (0.6, 0.96)]
    left = [(1 - x, y) for x, y in reversed(right)]
    pen.blob(turned([(0.5, 0.475), *right, (0.5, 0.98), *left], tilt), body, width=0.024)
    pen.polygon(turned([(0.465, 0.13), (0.535, 0.13), (0.535, 0.6), (0.465, 0.6)], tilt), neck)
    pen.circle(*turned([(0.5, 0.66)], tilt)[0], 0.075, INK)
    pen.line(turned([(0.41, 0.84), (0.59, 0.84)], tilt), neck, 0.045)
    for x in (0.485, 0.515):
        pen.line(turned([(x, 0.13), (x, 0.84)], tilt), WHITE, 0.01)


SPRITES: dict[str, tuple[Drawing, int]] = {
    "tree": (tree, 3),
    "house": (house, 3),
    "cloud": (cloud, 3),
    "rock": (rock, 3),
    "street lamp": (street_lamp, 3),
    "fence": (fence, 3),
    "drum": (drum, 3),
    "gift box": (gift_box, 3),
    "ladder": (ladder, 3),
    "guitar": (guitar, 3),
}
