"""Cartoon sprites of elephants, zebras and giraffes; those seen from the side look to the right."""

from __future__ import annotations

from collections.abc import Sequence

from mmhall.benchmarks.scenes.pen import INK, Colour, Drawing, Pen, Point, smooth
from mmhall.benchmarks.scenes.sprites.animal_parts import both, equine, equine_ear, eye, legs

IVORY: Colour = (255, 246, 214)

# Skin, far legs, inside of the ear, pose.
ELEPHANTS: tuple[tuple[Colour, Colour, Colour, str], ...] = (
    ((154, 160, 172), (118, 124, 136), (206, 178, 186), "down"),
    ((154, 160, 172), (118, 124, 136), (206, 178, 186), "up"),
    ((132, 148, 170), (100, 114, 134), (216, 176, 184), "front"),
    ((128, 128, 134), (96, 96, 102), (190, 164, 168), "down"),
    ((170, 172, 176), (134, 136, 140), (224, 184, 190), "front"),
)
# Coat, stripes, grazing.
ZEBRAS: tuple[tuple[Colour, Colour, bool], ...] = (
    ((252, 252, 250), (30, 28, 32), False),
    ((252, 252, 250), (30, 28, 32), True),
    ((248, 242, 228), (52, 38, 34), False),
    ((248, 242, 228), (52, 38, 34), True),
)
# Coat, patches, far legs, leaning.
GIRAFFES: tuple[tuple[Colour, Colour, Colour, bool], ...] = (
    ((252, 208, 84), (176, 98, 30), (214, 166, 60), False),
    ((252, 208, 84), (176, 98, 30), (214, 166, 60), True),
    ((250, 222, 140), (150, 76, 34), (212, 178, 104), False),
    ((246, 184, 66), (132, 66, 26), (206, 146, 46), True),
)


def _between(outline: Sequence[Point], x: float) -> tuple[float, float]:
    """Return the highest and the lowest y of a closed outline at x."""
    ys = [
        ay + (by - ay) * (x - ax) / (bx - ax)
        for (ax, ay), (bx, by) in zip(outline, [*outline[1:], outline[0]], strict=True)
        if min(ax, bx) <= x < max(ax, bx)
    ]
    return min(ys), max(ys)


def zebra(pen: Pen, variant: int) -> None:
    """Draw a striped zebra that looks up or grazes."""
    coat, dark, grazing = ZEBRAS[variant]
    pen.tube([(0.15, 0.46), (0.08, 0.54), (0.07, 0.66)], coat, 0.025)
    pen.ellipse(0.07, 0.73, 0.03, 0.06, dark)
    _zebra_legs(pen, coat, dark, 0.06 if grazing else 0.0)
    outline = equine(grazing)
    _zebra_mane(pen, coat, dark, grazing)
    pen.polygon(outline, coat)
    _zebra_stripes(pen, outline, dark, grazing)
    pen.polygon(outline, None)
    equine_ear(pen, coat, grazing)


def _zebra_legs(pen: Pen, coat: Colour, dark: Colour, shift: float) -> None:
    """Draw four legs with rings, the front ones moved back by `shift`."""
    for xs, bottom in (((0.29, 0.57 - shift), 0.93), ((0.2, 0.64 - shift), 0.955)):
        legs(pen, xs, 0.58, bottom, 0.07, coat, dark)
        for x in xs:
            for y in (0.69, 0.76, 0.83):
                pen.line([(x - 0.024, y), (x + 0.024, y)], dark, 0.03)


def _zebra_mane(pen: Pen, coat: Colour, dark: Colour, grazing: bool) -> None:
    """Draw the short upright mane behind the neck."""
    if grazing:
        points: list[Point] = [(0.53, 0.395), (0.69, 0.42), (0.81, 0.53), (0.88, 0.62)]
    else:
        points = [(0.52, 0.4), (0.575, 0.26), (0.64, 0.14), (0.69, 0.11)]
    pen.tube(points, dark, 0.06)
    for x, y in smooth(points, closed=False)[4::6]:
        pen.circle(x, y, 0.016, coat, None)


def _zebra_stripes(pen: Pen, outline: Sequence[Point], dark: Colour, grazing: bool) -> None:
    """Draw wedges on the trunk, bars on the neck, and a dark muzzle."""
    for x in (0.17, 0.245, 0.32, 0.395, 0.47, 0.545):
        top, bottom = _between(outline, x)
        end = top + 0.86 * (bottom - top)
        pen.blob(
            [
                (x - 0.022, top + 0.004),
                (x + 0.022, top + 0.004),
                (x + 0.028, (top + end) / 2),
                (x + 0.01, end),
                (x - 0.01, (top + end) / 2),
            ],
            dark,
            None,
        )
    if grazing:
        bars = [
            ((0.625, 0.425), (0.605, 0.57)),
            ((0.7, 0.46), (0.67, 0.58)),
            ((0.77, 0.53), (0.73, 0.63)),
            ((0.83, 0.59), (0.775, 0.7)),
            ((0.89, 0.67), (0.83, 0.78)),
        ]
        muzzle: list[Point] = [(0.84, 0.85), (0.94, 0.86), (0.925, 0.94), (0.855, 0.94)]
    else:
        bars = [
            ((0.555, 0.36), (0.69, 0.5)),
            ((0.585, 0.285), (0.715, 0.42)),
            ((0.625, 0.215), (0.735, 0.33)),
            ((0.67, 0.15), (0.76, 0.31)),
            ((0.75, 0.14), (0.765, 0.17)),
        ]
        muzzle = [(0.875, 0.255), (0.935, 0.32), (0.93, 0.36), (0.88, 0.385), (0.84, 0.35)]
    for start, stop in bars:
        pen.line([start, stop], dark, 0.034)
    pen.blob(muzzle, dark, None)
    eye(pen, *((0.9, 0.765) if grazing else (0.81, 0.245)), 0.026)


def giraffe(pen: Pen, variant: int) -> None:
    """Draw a giraffe whose neck is upright or leans forward."""
    coat, patch, far, leaning = GIRAFFES[variant]
    pen.tube([(0.21, 0.58), (0.16, 0.66), (0.16, 0.72)], coat, 0.02)
    pen.ellipse(0.16, 0.76, 0.026, 0.045, patch)
    legs(pen, (0.34, 0.53), 0.64, 0.94, 0.05, far, patch)
    legs(pen, (0.26, 0.46), 0.64, 0.96, 0.058, coat, patch)
    x, y = (0.72, 0.2) if leaning else (0.54, 0.14)
    pen.polygon([(0.38, 0.56), (x - 0.055, y), (x + 0.055, y), (0.58, 0.64)], coat)
    pen.blob(
        [(0.2, 0.6), (0.3, 0.53), (0.42, 0.5), (0.56, 0.54), (0.58, 0.66), (0.48, 0.71), (0.3, 0.7), (0.2, 0.69)], coat
    )
    pen.polygon([(0.41, 0.54), (x - 0.047, y), (x + 0.047, y), (0.565, 0.61)], coat, None)
    _giraffe_patches(pen, (x, y), patch)
    _giraffe_head(pen, x, y, coat, patch)


def _giraffe_patches(pen: Pen, top: Point, patch: Colour) -> None:
    """Draw blotches on the trunk and up the neck, which ends at `top`."""
    for x, y, r in (
        (0.26, 0.61, 0.036),
        (0.36, 0.58, 0.042),
        (0.31, 0.67, 0.03),
        (0.41, 0.66, 0.036),
        (0.52, 0.64, 0.038),
        (0.47, 0.565, 0.04),
    ):
        pen.polygon(
            [
                (x - r, y - 0.5 * r),
                (x - 0.2 * r, y - r),
                (x + r, y - 0.6 * r),
                (x + 0.8 * r, y + 0.7 * r),
                (x - 0.6 * r, y + 0.9 * r),
            ],
            patch,
            None,
        )
    for t, shift, r in (
        (0.2, 0.022, 0.034),
        (0.32, -0.026, 0.032),
        (0.44, 0.02, 0.031),
        (0.57, -0.02, 0.029),
        (0.69, 0.018, 0.028),
        (0.81, -0.016, 0.026),
    ):
        x, y = 0.485 + (top[0] - 0.485) * t + shift, 0.57 + (top[1] - 0.57) * t
        pen.polygon(
            [(x - r, y - 0.4 * r), (x, y - r), (x + r, y - 0.3 * r), (x + 0.6 * r, y + r), (x - 0.7 * r, y + 0.8 * r)],
            patch,
            None,
        )


def _giraffe_head(pen: Pen, x: float, y: float, coat: Colour, patch: Colour) -> None:
    """Draw the head with knobbed horns on a neck that ends at (x, y)."""
    pen.blob([(x - 0.03, y - 0.01), (x - 0.14, y - 0.045), (x - 0.12, y + 0.015)], coat)
    for dx in (-0.025, 0.035):
        pen.line([(x + dx, y - 0.03), (x + dx, y - 0.08)], INK, 0.03)
        pen.circle(x + dx, y - 0.08, 0.024, patch, INK, 0.01)
    pen.blob(
        [
            (x - 0.06, y - 0.02),
            (x, y - 0.06),
            (x + 0.07, y - 0.045),
            (x + 0.18, y + 0.03),
            (x + 0.2, y + 0.075),
            (x + 0.15, y + 0.1),
            (x + 0.05, y + 0.08),
            (x - 0.05, y + 0.06),
        ],
        coat,
    )
    pen.blob(
        [(x + 0.13, y + 0.01), (x + 0.185, y + 0.04), (x + 0.19, y + 0.075), (x + 0.14, y + 0.085)],
        (255, 238, 190),
        None,
    )
    pen.circle(x + 0.165, y + 0.045, 0.011, INK, None)
    eye(pen, x + 0.05, y, 0.026)


def elephant(pen: Pen, variant: int) -> None:
    """Draw an elephant from the side, its trunk down or up, or from the front."""
    skin, far, inner, pose = ELEPHANTS[variant]
    if pose == "front":
        _frontal_elephant(pen, skin, far, inner)
    else:
        _side_elephant(pen, skin, far, inner, pose == "up")


def _toes(pen: Pen, xs: Sequence[float], y: float) -> None:
    """Draw pale toenails on feet centred on the given x."""
    for x in xs:
        for dx in (-0.035, 0.0, 0.035):
            pen.circle(x + dx, y, 0.015, IVORY, None)


def _side_elephant(pen: Pen, skin: Colour, far: Colour, inner: Colour, trunk_up: bool) -> None:
    """Draw an elephant from the side."""
    pen.tube([(0.1, 0.42), (0.06, 0.52), (0.065, 0.6)], skin, 0.022)
    legs(pen, (0.3, 0.54), 0.64, 0.88, 0.11, far)
    legs(pen, (0.17, 0.46), 0.62, 0.9, 0.13, skin)
    _toes(pen, (0.17, 0.46), 0.873)
    pen.blob(
        [(0.08, 0.46), (0.16, 0.29), (0.36, 0.23), (0.56, 0.3), (0.62, 0.5), (0.54, 0.7), (0.34, 0.72), (0.14, 0.7)],
        skin,
    )
    if trunk_up:
        trunk: list[Point] = [(0.78, 0.46), (0.87, 0.48), (0.905, 0.38), (0.88, 0.26), (0.9, 0.14)]
    else:
        trunk = [(0.78, 0.4), (0.85, 0.52), (0.84, 0.7), (0.85, 0.82), (0.905, 0.82)]
    pen.tube(trunk, skin, 0.085)
    pen.circle(0.69, 0.36, 0.165, skin)
    pen.curve(trunk, skin, 0.085)
    pen.blob([(0.75, 0.5), (0.82, 0.56), (0.91, 0.55), (0.84, 0.62), (0.74, 0.58)], IVORY)
    pen.blob(
        [(0.6, 0.2), (0.65, 0.34), (0.63, 0.52), (0.53, 0.63), (0.4, 0.56), (0.36, 0.38), (0.42, 0.22), (0.52, 0.16)],
        skin,
    )
    pen.blob(
        [(0.57, 0.26), (0.6, 0.36), (0.58, 0.5), (0.52, 0.57), (0.44, 0.51), (0.41, 0.38), (0.47, 0.25)], inner, None
    )
    eye(pen, 0.745, 0.31, 0.03)


def _frontal_elephant(pen: Pen, skin: Colour, far: Colour, inner: Colour) -> None:
    """Draw an elephant from the front, its ears spread."""
    pen.ellipse(0.5, 0.64, 0.25, 0.23, far)
    legs(pen, (0.35, 0.65), 0.7, 0.93, 0.16, skin)
    _toes(pen, (0.35, 0.65), 0.9)
    for ear in both([(0.4, 0.2), (0.24, 0.1), (0.08, 0.16), (0.05, 0.36), (0.14, 0.54), (0.28, 0.56), (0.4, 0.46)]):
        pen.blob(ear, skin)
    for ear in both([(0.36, 0.24), (0.24, 0.16), (0.12, 0.21), (0.1, 0.36), (0.17, 0.48), (0.27, 0.5), (0.36, 0.42)]):
        pen.blob(ear, inner, None)
    for tusk in both([(0.42, 0.48), (0.36, 0.52), (0.345, 0.67), (0.39, 0.64), (0.46, 0.54)]):
        pen.blob(tusk, IVORY)
    pen.blob(
        [(0.5, 0.09), (0.64, 0.14), (0.7, 0.3), (0.64, 0.47), (0.5, 0.53), (0.36, 0.47), (0.3, 0.3), (0.36, 0.14)], skin
    )
    trunk: list[Point] = [(0.5, 0.44), (0.5, 0.6), (0.5, 0.76), (0.56, 0.84), (0.62, 0.8)]
    pen.tube(trunk, skin, 0.105)
    pen.ellipse(0.5, 0.41, 0.09, 0.1, skin, None)
    for y in (0.54, 0.61, 0.68):
        pen.line([(0.465, y), (0.535, y)], far, 0.014)
    for x in (0.4, 0.6):
        eye(pen, x, 0.32, 0.032)


SPRITES: dict[str, tuple[Drawing, int]] = {
    "elephant": (elephant, len(ELEPHANTS)),
    "zebra": (zebra, len(ZEBRAS)),
    "giraffe": (giraffe, len(GIRAFFES)),
}
