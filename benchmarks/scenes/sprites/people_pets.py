"""Cartoon sprites of people, cats, dogs and teddy bears; animals seen from the side look to the right."""

from __future__ import annotations

from mmhall.benchmarks.scenes.pen import INK, Colour, Drawing, Pen, Point
from mmhall.benchmarks.scenes.sprites.animal_parts import PINK, WHITE, both, cloud, eye, legs, mirrored, wide_eye

TONGUE: Colour = (238, 88, 108)
GOLD: Colour = (248, 200, 50)

# Skin, hair, top, bottom, hair style, outfit, pose.
PEOPLE: tuple[tuple[Colour, Colour, Colour, Colour, str, str, str], ...] = (
    ((250, 208, 172), (92, 54, 28), (216, 48, 44), (42, 74, 150), "short", "trousers", "down"),
    ((142, 88, 54), (34, 26, 26), (250, 200, 40), (250, 200, 40), "puffs", "dress", "wave"),
    ((236, 186, 140), (28, 26, 32), (40, 150, 90), (70, 62, 70), "short", "trousers", "wave"),
    ((252, 214, 184), (240, 190, 70), (60, 120, 214), (60, 120, 214), "long", "dress", "down"),
    ((104, 64, 42), (26, 22, 24), (244, 244, 240), (50, 130, 150), "curly", "shorts", "up"),
    ((248, 202, 166), (190, 74, 28), (130, 70, 170), (60, 66, 84), "long", "trousers", "up"),
)
# Coat, stripes, chest, sitting.
CATS: tuple[tuple[Colour, Colour, Colour, bool], ...] = (
    ((244, 154, 60), (198, 96, 22), (255, 238, 214), True),
    ((146, 150, 162), (92, 96, 110), (240, 240, 244), False),
    ((58, 56, 66), (58, 56, 66), (84, 82, 94), True),
    ((244, 154, 60), (198, 96, 22), (255, 238, 214), False),
    ((146, 150, 162), (92, 96, 110), (240, 240, 244), True),
    ((58, 56, 66), (58, 56, 66), (84, 82, 94), False),
)
# Coat, ear, muzzle and chest, collar, sitting.
DOGS: tuple[tuple[Colour, Colour, Colour, Colour, bool], ...] = (
    ((206, 146, 82), (122, 72, 34), (250, 232, 204), (220, 40, 44), False),
    ((206, 146, 82), (122, 72, 34), (250, 232, 204), (220, 40, 44), True),
    ((244, 238, 226), (128, 78, 40), (255, 252, 246), (40, 110, 210), True),
    ((150, 92, 48), (88, 50, 26), (226, 184, 136), (40, 160, 210), False),
    ((238, 196, 116), (206, 146, 66), (255, 240, 208), (50, 150, 70), True),
    ((244, 238, 226), (128, 78, 40), (255, 252, 246), (220, 40, 44), False),
)
# Fur, muzzle and belly, bow tie, waving.
TEDDIES: tuple[tuple[Colour, Colour, Colour, bool], ...] = (
    ((176, 112, 58), (240, 208, 160), (220, 40, 48), False),
    ((216, 160, 92), (252, 230, 190), (40, 104, 206), True),
    ((124, 76, 46), (222, 180, 132), (240, 70, 110), False),
    ((176, 112, 58), (240, 208, 160), (50, 150, 80), True),
    ((232, 196, 146), (255, 242, 218), (220, 40, 48), False),
)


def person(pen: Pen, variant: int) -> None:
    """Draw a standing person from the front."""
    skin, hair, top, bottom, style, outfit, pose = PEOPLE[variant]
    _hair_behind(pen, hair, style)
    _person_legs(pen, skin, bottom, outfit)
    _arms(pen, skin, top, pose)
    pen.rectangle(0.46, 0.27, 0.54, 0.36, skin)
    if outfit == "dress":
        pen.polygon([(0.4, 0.325), (0.6, 0.325), (0.6, 0.5), (0.71, 0.74), (0.29, 0.74), (0.4, 0.5)], top)
    else:
        pen.rectangle(0.385, 0.32, 0.615, 0.61, top, radius=0.035)
    pen.circle(0.5, 0.18, 0.125, skin)
    _hair_front(pen, hair, style)
    for x in (0.455, 0.545):
        pen.circle(x, 0.19, 0.016, INK, None)
    pen.curve([(0.455, 0.24), (0.5, 0.262), (0.545, 0.24)])


def _hair_behind(pen: Pen, hair: Colour, style: str) -> None:
    """Draw the hair that the head covers."""
    if style == "long":
        pen.blob(
            [(0.5, 0.045), (0.64, 0.12), (0.665, 0.36), (0.6, 0.42), (0.4, 0.42), (0.335, 0.36), (0.36, 0.12)], hair
        )
    elif style == "curly":
        cloud(pen, 0.5, 0.18, 0.12, 0.08, 0.05, 11, hair)
    elif style == "puffs":
        for x in (0.375, 0.625):
            pen.circle(x, 0.1, 0.06, hair)


def _hair_front(pen: Pen, hair: Colour, style: str) -> None:
    """Draw the hair above the forehead."""
    if style == "curly":
        for x, y in ((0.42, 0.1), (0.47, 0.085), (0.53, 0.085), (0.58, 0.1)):
            pen.circle(x, y, 0.035, hair, None)
        return
    pen.blob(
        [
            (0.37, 0.19),
            (0.375, 0.1),
            (0.45, 0.048),
            (0.55, 0.048),
            (0.625, 0.1),
            (0.63, 0.19),
            (0.595, 0.14),
            (0.5, 0.125),
            (0.405, 0.14),
        ],
        hair,
    )


def _person_legs(pen: Pen, skin: Colour, bottom: Colour, outfit: str) -> None:
    """Draw the legs with the trousers and the shoes."""
    cloth_end = {"trousers": 0.9, "shorts": 0.74, "dress": 0.6}[outfit]
    for x, toe in ((0.445, -0.025), (0.555, 0.025)):
        pen.rectangle(x - 0.043, 0.58, x + 0.043, 0.92, skin)
        pen.rectangle(x - 0.055, 0.57, x + 0.055, cloth_end, bottom)
        pen.ellipse(x + toe, 0.925, 0.075, 0.036, (70, 48, 40))


def _arms(pen: Pen, skin: Colour, top: Colour, pose: str) -> None:
    """Draw both arms: hanging, one waving, or both up."""
    down: list[Point] = [(0.41, 0.37), (0.33, 0.47), (0.29, 0.57)]
    up: list[Point] = [(0.41, 0.37), (0.3, 0.33), (0.24, 0.2)]
    left = up if pose == "up" else down
    right = mirrored(down if pose == "down" else up)
    for arm in (left, right):
        pen.tube(arm, skin, 0.066)
        pen.circle(*arm[2], 0.045, skin)
        pen.tube(arm[:2], top, 0.08)


def cat(pen: Pen, variant: int) -> None:
    """Draw a sitting or a standing cat."""
    coat, stripe, chest, sitting = CATS[variant]
    if sitting:
        _sitting_cat(pen, coat, stripe, chest)
    else:
        _standing_cat(pen, coat, stripe, chest)


def _sitting_cat(pen: Pen, coat: Colour, stripe: Colour, chest: Colour) -> None:
    """Draw a cat that sits frontally, its tail up beside it."""
    pen.tube([(0.58, 0.9), (0.78, 0.9), (0.86, 0.76), (0.79, 0.62), (0.86, 0.5)], coat, 0.055)
    pen.blob(
        [(0.44, 0.45), (0.58, 0.56), (0.67, 0.76), (0.66, 0.93), (0.44, 0.95), (0.22, 0.93), (0.21, 0.76), (0.3, 0.56)],
        coat,
    )
    pen.blob([(0.44, 0.52), (0.52, 0.6), (0.51, 0.76), (0.44, 0.8), (0.37, 0.76), (0.36, 0.6)], chest, None)
    for y in (0.7, 0.78):
        pen.line([(0.235, y), (0.3, y + 0.02)], stripe, 0.03)
        pen.line([(0.645, y), (0.58, y + 0.02)], stripe, 0.03)
    for x in (0.37, 0.51):
        pen.ellipse(x, 0.925, 0.07, 0.035, chest)
    pen.line([(0.44, 0.78), (0.44, 0.92)])
    _cat_head(pen, 0.44, 0.33, 1.0, coat, stripe)


def _standing_cat(pen: Pen, coat: Colour, stripe: Colour, chest: Colour) -> None:
    """Draw a cat that stands sideways, its thin tail curved upwards."""
    pen.tube([(0.2, 0.6), (0.08, 0.48), (0.09, 0.32), (0.19, 0.22), (0.14, 0.12)], coat, 0.05)
    legs(pen, (0.29, 0.67), 0.6, 0.9, 0.065, stripe)
    legs(pen, (0.19, 0.57), 0.6, 0.92, 0.075, coat)
    pen.blob(
        [
            (0.14, 0.6),
            (0.22, 0.5),
            (0.42, 0.5),
            (0.6, 0.46),
            (0.74, 0.54),
            (0.72, 0.7),
            (0.6, 0.76),
            (0.4, 0.73),
            (0.2, 0.76),
        ],
        coat,
    )
    for x in (0.24, 0.33, 0.42):
        pen.line([(x, 0.52), (x + 0.02, 0.63)], stripe, 0.035)
    pen.ellipse(0.58, 0.92, 0.06, 0.03, chest)
    pen.ellipse(0.2, 0.92, 0.06, 0.03, chest)
    _cat_head(pen, 0.69, 0.4, 0.86, coat, stripe)


def _cat_head(pen: Pen, x: float, y: float, scale: float, coat: Colour, stripe: Colour) -> None:
    """Draw a cat's face with pointed ears and whiskers, centred on (x, y)."""
    for side in (-1, 1):
        at = side * scale
        pen.polygon(
            [(x + 0.22 * at, y - 0.02 * scale), (x + 0.21 * at, y - 0.28 * scale), (x + 0.03 * at, y - 0.13 * scale)],
            coat,
        )
        pen.polygon(
            [(x + 0.18 * at, y - 0.1 * scale), (x + 0.178 * at, y - 0.21 * scale), (x + 0.09 * at, y - 0.13 * scale)],
            PINK,
            None,
        )
    pen.ellipse(x, y, 0.235 * scale, 0.18 * scale, coat)
    for dx in (-0.06, 0.0, 0.06):
        pen.line([(x + dx * scale, y - 0.15 * scale), (x + dx * scale, y - 0.09 * scale)], stripe, 0.025 * scale)
    whisker = WHITE if sum(coat[:3]) < 250 else INK
    for side in (-1, 1):
        at = side * scale
        wide_eye(pen, x + 0.1 * at, y - 0.01 * scale, 0.044 * scale, (190, 226, 80))
        for dy, spread in ((0.06, 0.035), (0.095, 0.1)):
            tip = (x + 0.29 * at, y + spread * scale)
            pen.line([(x + 0.235 * at, y + (spread + dy) / 2 * scale), tip], INK, 0.012)
            pen.line([(x + 0.1 * at, y + dy * scale), (x + 0.22 * at, y + (spread + dy) / 2 * scale)], whisker, 0.012)
    pen.polygon(
        [(x - 0.03 * scale, y + 0.045 * scale), (x + 0.03 * scale, y + 0.045 * scale), (x, y + 0.075 * scale)],
        PINK,
        INK,
        0.01,
    )
    pen.curve(
        [
            (x - 0.05 * scale, y + 0.105 * scale),
            (x - 0.025 * scale, y + 0.12 * scale),
            (x, y + 0.08 * scale),
            (x + 0.025 * scale, y + 0.12 * scale),
            (x + 0.05 * scale, y + 0.105 * scale),
        ],
        whisker,
        0.012,
    )


def dog(pen: Pen, variant: int) -> None:
    """Draw a standing or a sitting dog."""
    coat, ear, light, collar, sitting = DOGS[variant]
    if sitting:
        _sitting_dog(pen, coat, ear, light, collar)
    else:
        _standing_dog(pen, coat, ear, light, collar)


def _standing_dog(pen: Pen, coat: Colour, ear: Colour, light: Colour, collar: Colour) -> None:
    """Draw a dog from the side, with a long snout and its tail up."""
    pen.tube([(0.16, 0.54), (0.08, 0.44), (0.07, 0.3)], coat, 0.06)
    legs(pen, (0.26, 0.56), 0.62, 0.92, 0.075, ear)
    legs(pen, (0.17, 0.47), 0.62, 0.94, 0.085, coat)
    pen.blob(
        [
            (0.12, 0.56),
            (0.22, 0.48),
            (0.4, 0.5),
            (0.5, 0.38),
            (0.56, 0.26),
            (0.7, 0.3),
            (0.68, 0.5),
            (0.62, 0.66),
            (0.5, 0.74),
            (0.34, 0.7),
            (0.16, 0.72),
        ],
        coat,
    )
    pen.blob([(0.24, 0.5), (0.38, 0.52), (0.36, 0.62), (0.25, 0.61)], ear, None)
    pen.blob([(0.78, 0.38), (0.85, 0.38), (0.85, 0.51), (0.81, 0.55), (0.77, 0.5)], TONGUE)
    pen.blob(
        [
            (0.5, 0.22),
            (0.58, 0.12),
            (0.7, 0.12),
            (0.77, 0.21),
            (0.92, 0.25),
            (0.95, 0.33),
            (0.9, 0.4),
            (0.74, 0.41),
            (0.6, 0.4),
            (0.51, 0.33),
        ],
        coat,
    )
    pen.blob([(0.78, 0.25), (0.91, 0.265), (0.93, 0.33), (0.89, 0.385), (0.77, 0.39), (0.73, 0.32)], light, None)
    pen.ellipse(0.92, 0.255, 0.045, 0.038, INK, None)
    pen.blob([(0.55, 0.13), (0.61, 0.18), (0.62, 0.34), (0.56, 0.45), (0.48, 0.44), (0.45, 0.34), (0.49, 0.2)], ear)
    pen.tube([(0.5, 0.48), (0.58, 0.5), (0.67, 0.46)], collar, 0.045)
    pen.circle(0.63, 0.53, 0.032, GOLD)
    eye(pen, 0.7, 0.215, 0.03)


def _sitting_dog(pen: Pen, coat: Colour, ear: Colour, light: Colour, collar: Colour) -> None:
    """Draw a dog that sits frontally, its tongue out."""
    pen.tube([(0.66, 0.88), (0.8, 0.84), (0.86, 0.72)], coat, 0.065)
    for x in (0.31, 0.69):
        pen.ellipse(x, 0.84, 0.12, 0.11, coat)
    pen.blob([(0.5, 0.44), (0.63, 0.52), (0.66, 0.72), (0.62, 0.93), (0.38, 0.93), (0.34, 0.72), (0.37, 0.52)], coat)
    pen.ellipse(0.5, 0.69, 0.09, 0.13, light, None)
    for x in (0.42, 0.58):
        pen.ellipse(x, 0.92, 0.085, 0.04, light)
    pen.line([(0.5, 0.8), (0.5, 0.92)])
    pen.rectangle(0.36, 0.525, 0.64, 0.585, collar, radius=0.025)
    pen.circle(0.5, 0.605, 0.04, GOLD)
    pen.blob(
        [(0.33, 0.14), (0.5, 0.05), (0.67, 0.14), (0.71, 0.32), (0.62, 0.49), (0.5, 0.53), (0.38, 0.49), (0.29, 0.32)],
        coat,
    )
    for flap in both(
        [(0.37, 0.08), (0.4, 0.15), (0.34, 0.26), (0.31, 0.46), (0.22, 0.54), (0.14, 0.46), (0.17, 0.24), (0.26, 0.1)]
    ):
        pen.blob(flap, ear)
    pen.rectangle(0.45, 0.43, 0.55, 0.58, TONGUE, radius=0.05)
    pen.blob(
        [(0.5, 0.26), (0.6, 0.33), (0.63, 0.42), (0.56, 0.48), (0.5, 0.46), (0.44, 0.48), (0.37, 0.42), (0.4, 0.33)],
        light,
    )
    pen.ellipse(0.5, 0.32, 0.07, 0.05, INK, None)
    pen.line([(0.5, 0.34), (0.5, 0.45)])
    for x in (0.41, 0.59):
        eye(pen, x, 0.22, 0.034)


def teddy_bear(pen: Pen, variant: int) -> None:
    """Draw a teddy bear that sits frontally and may wave."""
    fur, light, bow, waving = TEDDIES[variant]
    arm: list[Point] = [(0.36, 0.54), (0.24, 0.62), (0.2, 0.7)]
    up: list[Point] = [(0.64, 0.56), (0.8, 0.48), (0.86, 0.38)]
    pen.tube(arm, fur, 0.12)
    pen.tube(up if waving else mirrored(arm), fur, 0.12)
    pen.ellipse(0.5, 0.68, 0.22, 0.22, fur)
    pen.ellipse(0.5, 0.7, 0.135, 0.145, light, None)
    for x in (0.27, 0.73):
        pen.circle(x, 0.84, 0.115, fur)
        pen.circle(x, 0.85, 0.065, light, None)
    for x in (0.29, 0.71):
        pen.circle(x, 0.135, 0.09, fur)
        pen.circle(x, 0.135, 0.05, light, None)
    pen.ellipse(0.5, 0.29, 0.26, 0.225, fur)
    pen.ellipse(0.5, 0.37, 0.125, 0.1, light)
    pen.ellipse(0.5, 0.325, 0.05, 0.036, INK, None)
    pen.line([(0.5, 0.33), (0.5, 0.39)])
    pen.curve([(0.44, 0.39), (0.47, 0.415), (0.5, 0.39), (0.53, 0.415), (0.56, 0.39)])
    for x in (0.39, 0.61):
        eye(pen, x, 0.245, 0.034)
    for wing in both([(0.5, 0.535), (0.35, 0.46), (0.34, 0.63)]):
        pen.polygon(wing, bow)
    pen.circle(0.5, 0.54, 0.042, bow)


SPRITES: dict[str, tuple[Drawing, int]] = {
    "person": (person, len(PEOPLE)),
    "cat": (cat, len(CATS)),
    "dog": (dog, len(DOGS)),
    "teddy bear": (teddy_bear, len(TEDDIES)),
}
