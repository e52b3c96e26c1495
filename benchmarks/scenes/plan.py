"""Plans of scenes: what a scene shows, before anything is drawn.

A plan is data: categories, positions, sizes, visibilities. All randomness of a scene comes
from one generator, so that a seed determines a picture.

Typical scenes use one place and often show an object together with its partner. Conflict
scenes break this: no object appears with its partner, and a third to a half of the objects come
from other places, while the background still shows the place.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from mmhall.benchmarks.scenes.world import NAMES, PARTNERS, PLACES, Place, are_partners

Visibility = Literal["clear", "small", "faint", "covered"]


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How hard objects are to see; ranges are (least, most).

    Attributes:
        share: Share of objects that are small, faint or covered.
        small: Side of a small object, fraction of the picture's side.
        opacity: Opacity of a faint object.
        cover: Share of a covered object's box under the panel.
    """

    share: float
    small: tuple[float, float]
    opacity: tuple[float, float]
    cover: tuple[float, float]


GENTLE = Difficulty(0.22, (0.13, 0.17), (0.34, 0.50), (0.42, 0.56))
USUAL = Difficulty(0.40, (0.10, 0.14), (0.24, 0.38), (0.48, 0.62))
_HARD: tuple[Visibility, ...] = ("small", "faint", "covered")
_SIDE = (0.27, 0.44)  # of an object that is not small
_SCENERY_SIDE = (0.18, 0.30)


@dataclass(frozen=True, slots=True)
class Placed:
    """One thing in a scene; lengths are fractions of the picture's side.

    Attributes:
        name: Category, or the name of a piece of scenery.
        variant: Which drawing of it, taken modulo the number there is.
        x: Centre, from the left.
        y: Centre, from the top.
        side: The longer side of its box.
        mirrored: Whether it faces the other way.
        tilt: Rotation in degrees, counter-clockwise.
        visibility: clear, small, faint or covered.
        opacity: 1 except when faint.
        cover: Share of its box under a panel; 0 except when covered.
        dye: Name of the colour that all of it has (`render.DYES`); "": its own colours.
    """

    name: str
    variant: int
    x: float
    y: float
    side: float
    mirrored: bool
    tilt: float
    visibility: Visibility = "clear"
    opacity: float = 1.0
    cover: float = 0.0
    dye: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a scene is going to show.

    Attributes:
        place: Place of the scene; sets the background.
        conflict: Whether co-occurrence was broken on purpose.
        objects: Category objects, back to front.
        scenery: Things of no category, behind the objects.
        paint: Seed of the background's details.
    """

    place: Place
    conflict: bool
    objects: tuple[Placed, ...]
    scenery: tuple[Placed, ...]
    paint: int


def plan_scene(rng: random.Random, *, conflict: bool) -> Plan:
    """Plan one scene of three to five objects.

    Args:
        rng: The only source of randomness.
        conflict: Whether to break the co-occurrence of categories.
    """
    place = rng.choice(PLACES)
    count = rng.choices((3, 4, 5), (0.35, 0.4, 0.25))[0]
    away = max(1, round(count * rng.uniform(0.33, 0.5))) if conflict else rng.choices((0, 1), (0.7, 0.3))[0]
    names: list[str] = []
    while len(names) < count:
        at_home = len(names) < count - away
        names.append(_next_name(rng, place, names, at_home=at_home, conflict=conflict))
    return lay_out(rng, place, names, conflict)


def plan_training_scene(rng: random.Random) -> Plan:
    """Plan a training scene: one to six objects, partners often together."""
    place = rng.choice(PLACES)
    names: list[str] = []
    for _ in range(rng.randint(1, 5)):
        names.append(_next_name(rng, place, names, at_home=True, conflict=False))
    for _ in range(rng.choices((0, 1, 2), (0.35, 0.35, 0.3))[0]):
        names.append(_next_name(rng, place, names, at_home=False, conflict=False))
    return lay_out(rng, place, names[:6], conflict=False)


def plan_random_scene(rng: random.Random) -> Plan:
    """Plan an easy scene without co-occurrence: categories and place are drawn uniformly."""
    names = rng.sample(NAMES, rng.randint(2, 6))
    return lay_out(rng, rng.choice(PLACES), names, conflict=True, difficulty=GENTLE)


def _next_name(rng: random.Random, place: Place, names: Sequence[str], *, at_home: bool, conflict: bool) -> str:
    """Choose one more category, by the rules of the scene."""
    if not conflict and names and rng.random() < 0.12:
        return rng.choice(names)
    if not conflict and at_home and names and rng.random() < 0.5:
        partners = PARTNERS[rng.choice(names)]
        partner = rng.choices(tuple(partners), tuple(partners.values()))[0]
        if partner not in names:
            return partner
    pool = {n: place.members[n] if at_home else 1.0 for n in NAMES if (n in place.members) == at_home}
    allowed = {
        n: w
        for n, w in pool.items()
        if n not in names and not (conflict and any(are_partners(n, other) for other in names))
    }
    allowed = allowed or {n: 1.0 for n in NAMES if n not in names and not any(are_partners(n, o) for o in names)}
    return rng.choices(tuple(allowed), tuple(allowed.values()))[0]


def lay_out(
    rng: random.Random,
    place: Place,
    names: Sequence[str],
    conflict: bool,
    difficulty: Difficulty = USUAL,
    special: Mapping[str, Difficulty] = MappingProxyType({}),
) -> Plan:
    """Give every object and some scenery a position, a size and a visibility.

    Args:
        rng: The only source of randomness.
        place: Place of the scene.
        names: Categories of the objects.
        conflict: Whether co-occurrence was broken on purpose.
        difficulty: How hard objects are to see.
        special: The same for the categories that differ from it.
    """
    boxes: list[tuple[float, float, float]] = []
    objects = [_place_object(rng, name, boxes, special.get(name, difficulty)) for name in names]
    objects.sort(key=lambda o: o.visibility != "clear")  # hard ones in front: nothing hides them by accident
    scenery = tuple(
        _make_placed(rng, "", *_find_spot(rng, rng.uniform(*_SCENERY_SIDE), boxes, tries=12))
        for _ in range(rng.randint(0, 2))
    )
    return Plan(place, conflict, tuple(objects), scenery, rng.getrandbits(32))


def _place_object(
    rng: random.Random, name: str, boxes: list[tuple[float, float, float]], difficulty: Difficulty
) -> Placed:
    visibility: Visibility = rng.choice(_HARD) if rng.random() < difficulty.share else "clear"
    x, y, side = _find_spot(rng, rng.uniform(*(difficulty.small if visibility == "small" else _SIDE)), boxes, tries=40)
    boxes.append((x, y, side))
    return replace(
        _make_placed(rng, name, x, y, side),
        visibility=visibility,
        opacity=rng.uniform(*difficulty.opacity) if visibility == "faint" else 1.0,
        cover=rng.uniform(*difficulty.cover) if visibility == "covered" else 0.0,
    )


def _find_spot(
    rng: random.Random, side: float, boxes: Sequence[tuple[float, float, float]], *, tries: int
) -> tuple[float, float, float]:
    """Find a position with little overlap with other boxes, while the size shrinks slowly."""
    best = (2.0, 0.5, 0.5, side)
    for attempt in range(tries):
        if side > 0.26 and attempt % 10 == 9:
            side *= 0.92
        half = side / 2
        x, y = rng.uniform(half, 1 - half), rng.uniform(half, 1 - half)
        most = max((overlap((x, y, side), box) for box in boxes), default=0.0)
        best = min(best, (most, x, y, side))
        if most < 0.08:
            break
    return best[1:]


def overlap(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    """Return the intersection of two squares over the smaller one's area."""
    reach = (a[2] + b[2]) / 2
    width, height = reach - abs(a[0] - b[0]), reach - abs(a[1] - b[1])
    if width <= 0 or height <= 0:
        return 0.0
    small = min(a[2], b[2])
    return min(width, small) * min(height, small) / small**2


def _make_placed(rng: random.Random, name: str, x: float, y: float, side: float) -> Placed:
    variant, mirrored, tilt = rng.getrandbits(16), rng.random() < 0.5, rng.uniform(-14, 14)
    return Placed(name, variant, x, y, side, mirrored, tilt)
