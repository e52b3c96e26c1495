"""Cartoon sprites of farm animals and birds; those seen from the side look to the right."""

from __future__ import annotations

from mmhall.benchmarks.scenes.pen import INK, Colour, Drawing, Pen
from mmhall.benchmarks.scenes.sprites.animal_parts import PINK, cloud, equine, equine_ear, eye, legs, wide_eye

ORANGE: Colour = (244, 150, 32)

# Body, belly, wing, flying.
BIRDS: tuple[tuple[Colour, Colour, Colour, bool], ...] = (
    ((66, 142, 226), (250, 236, 214), (28, 86, 172), False),
    ((222, 52, 46), (250, 196, 170), (150, 24, 30), False),
    ((66, 142, 226), (250, 236, 214), (28, 86, 172), True),
    ((252, 212, 50), (255, 244, 196), (226, 150, 20), False),
    ((222, 52, 46), (250, 196, 170), (150, 24, 30), True),
    ((126, 88, 60), (240, 122, 50), (84, 56, 38), False),
)
# Coat, far legs, mane and tail, grazing.
HORSES: tuple[tuple[Colour, Colour, Colour, bool], ...] = (
    ((156, 90, 44), (118, 66, 32), (50, 32, 24), False),
    ((186, 100, 44), (144, 74, 32), (250, 222, 160), False),
    ((156, 90, 44), (118, 66, 32), (50, 32, 24), True),
    ((110, 66, 42), (80, 48, 32), (36, 26, 24), False),
    ((214, 160, 90), (172, 122, 64), (255, 240, 206), True),
)
# Wool, face and legs, frontal.
SHEEP: tuple[tuple[Colour, Colour, bool], ...] = (
    ((252, 250, 244), (60, 56, 62), False),
    ((252, 250, 244), (60, 56, 62), True),
    ((246, 236, 214), (84, 62, 52), False),
    ((246, 236, 214), (84, 62, 52), True),
)
# Coat, patches, horns, frontal.
COWS: tuple[tuple[Colour, Colour, Colour, bool], ...] = (
    ((250, 250, 250), (40, 38, 42), (240, 218, 160), False),
    ((250, 250, 250), (40, 38, 42), (240, 218, 160), True),
    ((252, 246, 236), (150, 82, 42), (236, 210, 150), False),
    ((252, 246, 236), (150, 82, 42), (236, 210, 150), True),
)


def bird(pen: Pen, variant: int) -> None:
    """Draw a standing or a flying bird."""
    body, belly, wing, flying = BIRDS[variant]
    if flying:
        _flying_bird(pen, body, belly, wing)
    else:
        _standing_bird(pen, body, belly, wing)


def _standing_bird(pen: Pen, body: Colour, belly: Colour, wing: Colour) -> None:
    """Draw a plump bird on two thin legs, from the side."""
    for x in (0.47, 0.59):
        pen.line([(x, 0.72), (x, 0.93)], INK, 0.045)
        pen.line([(x - 0.06, 0.94), (x + 0.08, 0.94)], INK, 0.045)
        pen.line([(x, 0.72), (x, 0.93)], ORANGE, 0.018)
    pen.polygon([(0.3, 0.5), (0.05, 0.64), (0.07, 0.72), (0.16, 0.75), (0.38, 0.68)], wing)
    pen.polygon([(0.83, 0.22), (0.96, 0.3), (0.82, 0.37)], ORANGE)
    pen.blob(
        [
            (0.68, 0.09),
            (0.82, 0.15),
            (0.86, 0.3),
            (0.82, 0.5),
            (0.72, 0.7),
            (0.54, 0.78),
            (0.36, 0.73),
            (0.25, 0.6),
            (0.36, 0.44),
            (0.5, 0.32),
            (0.54, 0.16),
        ],
        body,
    )
    pen.blob([(0.82, 0.42), (0.76, 0.6), (0.62, 0.73), (0.48, 0.75), (0.56, 0.64), (0.7, 0.46)], belly, None)
    pen.blob([(0.54, 0.42), (0.64, 0.5), (0.56, 0.62), (0.36, 0.68), (0.16, 0.66), (0.34, 0.54)], wing)
    wide_eye(pen, 0.735, 0.23, 0.045)


def _flying_bird(pen: Pen, body: Colour, belly: Colour, wing: Colour) -> None:
    """Draw a bird with raised wings and trailing legs, from the side."""
    for x in (0.36, 0.44):
        pen.line([(x + 0.03, 0.7), (x - 0.05, 0.86), (x - 0.11, 0.88)], INK, 0.04)
        pen.line([(x + 0.03, 0.7), (x - 0.05, 0.86), (x - 0.11, 0.88)], ORANGE, 0.016)
    pen.blob([(0.52, 0.5), (0.58, 0.22), (0.72, 0.07), (0.76, 0.2), (0.7, 0.44), (0.6, 0.54)], wing)
    pen.polygon([(0.24, 0.6), (0.04, 0.5), (0.05, 0.6), (0.04, 0.7), (0.22, 0.7)], wing)
    pen.polygon([(0.87, 0.44), (0.97, 0.52), (0.86, 0.57)], ORANGE)
    pen.blob(
        [
            (0.14, 0.62),
            (0.36, 0.52),
            (0.6, 0.5),
            (0.7, 0.4),
            (0.8, 0.37),
            (0.88, 0.43),
            (0.89, 0.54),
            (0.8, 0.66),
            (0.62, 0.76),
            (0.4, 0.76),
        ],
        body,
    )
    pen.blob([(0.84, 0.6), (0.7, 0.7), (0.54, 0.75), (0.36, 0.73), (0.56, 0.68), (0.72, 0.6)], belly, None)
    pen.blob(
        [
            (0.58, 0.64),
            (0.65, 0.52),
            (0.56, 0.28),
            (0.36, 0.08),
            (0.2, 0.06),
            (0.21, 0.16),
            (0.2, 0.26),
            (0.24, 0.36),
            (0.27, 0.46),
            (0.34, 0.54),
            (0.44, 0.66),
        ],
        wing,
    )
    for start in ((0.28, 0.2), (0.28, 0.32), (0.33, 0.45)):
        pen.line([start, (0.53, 0.56)], body, 0.025)
    wide_eye(pen, 0.8, 0.47, 0.035)


def horse(pen: Pen, variant: int) -> None:
    """Draw a horse that looks up or grazes."""
    coat, far, mane, grazing = HORSES[variant]
    hoof: Colour = (44, 36, 34)
    shift = 0.06 if grazing else 0.0
    legs(pen, (0.29, 0.57 - shift), 0.58, 0.93, 0.065, far, hoof)
    pen.blob([(0.16, 0.43), (0.08, 0.47), (0.045, 0.62), (0.07, 0.82), (0.12, 0.76), (0.15, 0.58)], mane)
    legs(pen, (0.2, 0.64 - shift), 0.56, 0.955, 0.075, coat, hoof)
    pen.polygon(equine(grazing), coat)
    equine_ear(pen, coat, grazing)
    if grazing:
        pen.blob(
            [
                (0.48, 0.385),
                (0.58, 0.36),
                (0.71, 0.41),
                (0.83, 0.53),
                (0.9, 0.64),
                (0.85, 0.68),
                (0.79, 0.63),
                (0.74, 0.58),
                (0.68, 0.54),
                (0.63, 0.48),
                (0.54, 0.45),
            ],
            mane,
        )
        eye(pen, 0.885, 0.745, 0.026)
        pen.circle(0.9, 0.905, 0.014, INK, None)
    else:
        pen.blob(
            [
                (0.46, 0.42),
                (0.5, 0.32),
                (0.57, 0.18),
                (0.65, 0.08),
                (0.74, 0.1),
                (0.76, 0.19),
                (0.69, 0.22),
                (0.67, 0.32),
                (0.61, 0.36),
                (0.59, 0.46),
                (0.53, 0.5),
            ],
            mane,
        )
        eye(pen, 0.79, 0.235, 0.026)
        pen.circle(0.9, 0.325, 0.014, INK, None)


def sheep(pen: Pen, variant: int) -> None:
    """Draw a woolly sheep from the side or from the front."""
    wool, face, frontal = SHEEP[variant]
    if frontal:
        legs(pen, (0.37, 0.63), 0.7, 0.96, 0.1, face)
        cloud(pen, 0.5, 0.44, 0.3, 0.24, 0.12, 12, wool)
        x, y = 0.5, 0.42
    else:
        legs(pen, (0.31, 0.62), 0.66, 0.87, 0.075, face)
        legs(pen, (0.21, 0.52), 0.66, 0.9, 0.08, face)
        pen.circle(0.09, 0.46, 0.05, wool)
        cloud(pen, 0.4, 0.5, 0.25, 0.19, 0.105, 12, wool)
        for arc in ([(0.24, 0.44), (0.3, 0.49), (0.36, 0.44)], [(0.34, 0.58), (0.4, 0.63), (0.46, 0.58)]):
            pen.curve(arc, (170, 164, 158), 0.018)
        x, y = 0.735, 0.4
    for side in (-1, 1):
        pen.blob(
            [(x + 0.08 * side, y - 0.07), (x + 0.19 * side, y - 0.06), (x + 0.2 * side, y), (x + 0.1 * side, y + 0.01)],
            face,
        )
    pen.blob(
        [
            (x - 0.12, y - 0.1),
            (x, y - 0.15),
            (x + 0.12, y - 0.1),
            (x + 0.1, y + 0.1),
            (x + 0.06, y + 0.2),
            (x, y + 0.22),
            (x - 0.06, y + 0.2),
            (x - 0.1, y + 0.1),
        ],
        face,
    )
    cloud(pen, x, y - 0.13, 0.075, 0.03, 0.05, 7, wool)
    for side in (-1, 1):
        wide_eye(pen, x + 0.052 * side, y + 0.01, 0.032)
        pen.circle(x + 0.025 * side, y + 0.16, 0.013, PINK, None)


def cow(pen: Pen, variant: int) -> None:
    """Draw a patched cow from the side or from the front."""
    coat, patch, horn, frontal = COWS[variant]
    if frontal:
        _frontal_cow(pen, coat, patch, horn)
    else:
        _side_cow(pen, coat, patch, horn)


def _side_cow(pen: Pen, coat: Colour, patch: Colour, horn: Colour) -> None:
    """Draw a cow from the side, with its face turned to the viewer."""
    hoof: Colour = (70, 58, 54)
    pen.tube([(0.1, 0.4), (0.06, 0.5), (0.065, 0.6)], coat, 0.022)
    pen.ellipse(0.065, 0.66, 0.028, 0.05, patch)
    legs(pen, (0.26, 0.61), 0.62, 0.88, 0.075, (206, 200, 196), hoof)
    pen.blob([(0.26, 0.64), (0.42, 0.64), (0.42, 0.73), (0.39, 0.76), (0.3, 0.76), (0.26, 0.72)], PINK)
    legs(pen, (0.165, 0.53), 0.62, 0.9, 0.085, coat, hoof)
    pen.blob(
        [
            (0.09, 0.4),
            (0.16, 0.33),
            (0.4, 0.34),
            (0.64, 0.32),
            (0.72, 0.4),
            (0.7, 0.6),
            (0.6, 0.69),
            (0.4, 0.68),
            (0.16, 0.69),
            (0.09, 0.6),
        ],
        coat,
    )
    pen.blob([(0.14, 0.36), (0.29, 0.35), (0.31, 0.46), (0.22, 0.54), (0.12, 0.48)], patch, None)
    pen.blob([(0.36, 0.5), (0.46, 0.46), (0.5, 0.56), (0.44, 0.65), (0.33, 0.63)], patch, None)
    pen.blob([(0.42, 0.35), (0.6, 0.345), (0.58, 0.44), (0.5, 0.42)], patch, None)
    _cow_head(pen, 0.75, 0.36, 1.0, coat, patch, horn)


def _frontal_cow(pen: Pen, coat: Colour, patch: Colour, horn: Colour) -> None:
    """Draw a cow from the front."""
    legs(pen, (0.34, 0.66), 0.7, 0.95, 0.12, coat, (70, 58, 54))
    pen.blob([(0.44, 0.8), (0.56, 0.8), (0.56, 0.88), (0.44, 0.88)], PINK)
    pen.blob(
        [(0.5, 0.38), (0.72, 0.44), (0.79, 0.62), (0.72, 0.8), (0.5, 0.84), (0.28, 0.8), (0.21, 0.62), (0.28, 0.44)],
        coat,
    )
    pen.blob([(0.25, 0.55), (0.4, 0.6), (0.36, 0.76), (0.27, 0.74)], patch, None)
    pen.blob([(0.72, 0.5), (0.76, 0.64), (0.67, 0.72), (0.62, 0.6)], patch, None)
    _cow_head(pen, 0.5, 0.34, 1.3, coat, patch, horn)


def _cow_head(pen: Pen, x: float, y: float, s: float, coat: Colour, patch: Colour, horn: Colour) -> None:
    """Draw a cow's face of scale `s` with horns and a pink muzzle, centred on (x, y)."""
    for side in (-s, s):
        pen.blob(
            [
                (x + 0.06 * side, y - 0.11 * s),
                (x + 0.14 * side, y - 0.15 * s),
                (x + 0.15 * side, y - 0.22 * s),
                (x + 0.2 * side, y - 0.14 * s),
                (x + 0.12 * side, y - 0.07 * s),
            ],
            horn,
        )
        pen.blob(
            [
                (x + 0.1 * side, y - 0.07 * s),
                (x + 0.2 * side, y - 0.08 * s),
                (x + 0.21 * side, y - 0.02 * s),
                (x + 0.12 * side, y),
            ],
            patch,
        )
    pen.blob(
        [
            (x - 0.11 * s, y - 0.13 * s),
            (x, y - 0.15 * s),
            (x + 0.11 * s, y - 0.13 * s),
            (x + 0.11 * s, y + 0.02 * s),
            (x + 0.1 * s, y + 0.16 * s),
            (x - 0.1 * s, y + 0.16 * s),
            (x - 0.11 * s, y + 0.02 * s),
        ],
        coat,
    )
    for side in (-s, s):
        pen.blob(
            [
                (x + 0.1 * side, y - 0.11 * s),
                (x + 0.045 * side, y - 0.12 * s),
                (x + 0.03 * side, y - 0.01 * s),
                (x + 0.06 * side, y + 0.05 * s),
                (x + 0.105 * side, y + 0.03 * s),
            ],
            patch,
            None,
        )
        wide_eye(pen, x + 0.06 * side, y - 0.03 * s, 0.03 * s)
    pen.ellipse(x, y + 0.14 * s, 0.145 * s, 0.085 * s, PINK)
    for side in (-s, s):
        pen.ellipse(x + 0.055 * side, y + 0.125 * s, 0.018 * s, 0.024 * s, INK, None)
    pen.curve([(x - 0.06 * s, y + 0.18 * s), (x, y + 0.195 * s), (x + 0.06 * s, y + 0.18 * s)])


SPRITES: dict[str, tuple[Drawing, int]] = {
    "bird": (bird, len(BIRDS)),
    "horse": (horse, len(HORSES)),
    "sheep": (sheep, len(SHEEP)),
    "cow": (cow, len(COWS)),
}
