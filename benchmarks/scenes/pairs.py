"""Pairs of scenes that differ in one object: the same plan with and without it.

Everything else keeps its place and its pixels, the background included: a scene is painted from one seed, and an object
is removed only if the seed's later draws stay the same. Panels over covered objects are drawn from this seed, one after
the other, so of the covered objects only the last one can go.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from mmhall.benchmarks.scenes.plan import Plan


def removable_objects(plan: Plan) -> tuple[int, ...]:
    """Return the places in a plan of the objects that can be removed: those of a category shown once.

    A scene with a single object has none: nothing would be left of it.
    """
    shown = Counter(placed.name for placed in plan.objects)
    covered = [index for index, placed in enumerate(plan.objects) if placed.cover]
    return tuple(
        index
        for index, placed in enumerate(plan.objects)
        if len(plan.objects) > 1 and shown[placed.name] == 1 and (not placed.cover or index == covered[-1])
    )


def without_object(plan: Plan, index: int) -> Plan:
    """Return a plan without one of its objects.

    Args:
        plan: The plan.
        index: Place of the object, one of `removable_objects`.
    """
    return replace(plan, objects=plan.objects[:index] + plan.objects[index + 1 :])
