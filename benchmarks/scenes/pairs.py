"""Pairs of scenes that differ in one object: it is removed, added, exchanged, moved or has another colour.

Everything else keeps its place and its pixels, the background included: a scene is painted from one seed, and an object
is removed only if the seed's later draws stay the same. Panels over covered objects are drawn from this seed, one after
the other, so of the covered objects only the last one can go, and only objects without a panel are moved or exchanged.
What an added or moved object could hide is checked on the pixels (`shows_the_rest`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from mmhall.benchmarks.scenes.plan import Placed, Plan, overlap
from mmhall.benchmarks.scenes.render import Rendered

_SIDES = (0.34, 0.29, 0.24, 0.20)  # of an added object, the first that fits
_TRIES = 60
_LEAST_AREA, _LEAST_VISIBLE, _LEAST_KEPT = 150, 0.9, 0.9
Spot = Callable[[float, float], bool]
"""Whether a centre (x, y) may be taken."""


def removable_objects(plan: Plan) -> tuple[int, ...]:
    """Return the places in a plan of the objects that can be removed: those of a category shown once.

    A scene with a single object has none: nothing would be left of it.
    """
    covered = [index for index, placed in enumerate(plan.objects) if placed.cover]
    return tuple(
        index
        for index in single_objects(plan)
        if len(plan.objects) > 1 and (not plan.objects[index].cover or index == covered[-1])
    )


def single_objects(plan: Plan) -> tuple[int, ...]:
    """Return the places in a plan of the objects of a category shown once."""
    shown = Counter(placed.name for placed in plan.objects)
    return tuple(i for i, o in enumerate(plan.objects) if shown[o.name] == 1)


def plain_objects(plan: Plan) -> tuple[int, ...]:
    """Return the places in a plan of the objects that are clear to see and of a category shown once."""
    return tuple(i for i in single_objects(plan) if plan.objects[i].visibility == "clear")


def without_object(plan: Plan, index: int) -> Plan:
    """Return a plan without one of its objects.

    Args:
        plan: The plan.
        index: Place of the object, one of `removable_objects`.
    """
    return replace(plan, objects=plan.objects[:index] + plan.objects[index + 1 :])


def with_object(rng: random.Random, plan: Plan, name: str, variant: int) -> Plan | None:
    """Return a plan with one more object, the last of its objects; None: it has no room.

    Args:
        rng: The only source of randomness.
        plan: The plan.
        name: Category of the object.
        variant: Which drawing of it.
    """
    for side in _SIDES:
        spot = _free_spot(rng, plan, side)
        if spot is not None:
            placed = Placed(name, variant, *spot, side, rng.random() < 0.5, rng.uniform(-14, 14))
            return replace(plan, objects=(*plan.objects, placed))
    return None


def with_exchanged(plan: Plan, index: int, name: str, variant: int) -> Plan:
    """Return a plan with an object of another category in the place of one that is clear to see."""
    return _with(plan, index, replace(plan.objects[index], name=name, variant=variant))


def with_moved(rng: random.Random, plan: Plan, index: int, side: float, allowed: Spot) -> Plan | None:
    """Return a plan with an object in another place; None: no allowed place is free.

    Args:
        rng: The only source of randomness.
        plan: The plan.
        index: Place in the plan of the object, which is clear to see.
        side: Longer side of its box there.
        allowed: Whether its centre may be there.
    """
    spot = _free_spot(rng, plan, side, index, allowed)
    return None if spot is None else _with(plan, index, replace(plan.objects[index], x=spot[0], y=spot[1], side=side))


def with_dyes(plan: Plan, dyes: Mapping[int, str]) -> Plan:
    """Return a plan with some objects in one colour each.

    Args:
        plan: The plan.
        dyes: Place of an object in the plan to the name of its colour.
    """
    return replace(plan, objects=tuple(replace(o, dye=dyes[i]) if i in dyes else o for i, o in enumerate(plan.objects)))


def shows_the_rest(before: Rendered, after: Rendered, index: int) -> bool:
    """Tell whether a changed object is wholly to be seen, and the others as much as before.

    Args:
        before: The scene.
        after: The scene with one object changed or added; the others have the same places in the plan.
        index: Place in the plan of the changed object.
    """
    areas_before, areas_after = _areas(before), _areas(after)
    if index >= len(after.objects) or len(areas_after) != len(after.objects) + 1:
        return False
    others = [i for i in range(1, len(areas_before)) if i != index + 1]
    own = after.objects[index]
    kept = all(areas_after[i] >= _LEAST_KEPT * areas_before[i] for i in others)
    return bool(kept and own.area >= _LEAST_AREA and own.visible >= _LEAST_VISIBLE)


def _areas(rendered: Rendered) -> list[int]:
    """Count the pixels of the background and of each object."""
    areas: list[int] = np.bincount(rendered.owner.ravel().astype(int) + 1).tolist()
    return areas


def _with(plan: Plan, index: int, placed: Placed) -> Plan:
    return replace(plan, objects=(*plan.objects[:index], placed, *plan.objects[index + 1 :]))


def _free_spot(
    rng: random.Random, plan: Plan, side: float, leaving: int = -1, allowed: Spot = lambda x, y: True
) -> tuple[float, float] | None:
    """Find a centre where nothing of the other objects' boxes is; None: none was found.

    Args:
        rng: The only source of randomness.
        plan: The plan.
        side: Side of the object's box.
        leaving: Place in the plan of the object that leaves its box; -1: none.
        allowed: Whether the centre may be there.
    """
    boxes = [(o.x, o.y, o.side) for i, o in enumerate(plan.objects) if i != leaving]
    for _ in range(_TRIES):
        x, y = rng.uniform(side / 2, 1 - side / 2), rng.uniform(side / 2, 1 - side / 2)
        if allowed(x, y) and all(overlap((x, y, side), box) == 0 for box in boxes):
            return x, y
    return None
