"""Fine-grained probes: two pictures of a scene that differ in one object, and questions that this changes.

Entity    One object is removed, and in another picture one is added; as a choice, one is exchanged for another.
Number    One more object of a category that is there once or twice. Of another category one more stands in both
          pictures, or in neither: what is asked of it says nothing about which.
Colour    One object, all of it in one colour, has another colour. Other objects keep theirs, one of them such a colour.
Relation  One object stands on the other side of another one: left and right of it, or above and below.

Each aspect asks about the change, and the same about what does not change. The truth is read off the painted pixels:
an object counts as changed only if it is wholly to be seen afterwards, and every other one as much as before.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mmhall.benchmarks.scenes.language import plural
from mmhall.benchmarks.scenes.pairs import (
    Spot,
    plain_objects,
    removable_objects,
    shows_the_rest,
    single_objects,
    with_dyes,
    with_exchanged,
    with_moved,
    with_object,
    without_object,
)
from mmhall.benchmarks.scenes.plan import Placed, Plan
from mmhall.benchmarks.scenes.render import DYES, SIZE, Rendered, render
from mmhall.benchmarks.scenes.world import NAMES
from mmhall.objects.wording import question_about

WORDS = ("one", "two", "three")
_COLOURLESS = ("person", "traffic light")  # a red light, or person, is something else than a red object
_GAP = 0.16  # between the centres of two objects that stand beside each other, fraction of the picture's side
_MOST_TRIES, _MOST_OTHERS = 8, 2
_SMALLER = (0.28, 0.22, 0.18)  # sides of an object that needs room beside another one
_SIDES: dict[str, tuple[str, str]] = {"x": ("left", "right"), "y": ("above", "below")}
_OF = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about both pictures.

    Attributes:
        text: The question.
        before: Its answer about the first picture: yes, no or one of the options.
        after: Its answer about the second picture.
        options: The options; none: yes or no.
    """

    text: str
    before: str
    after: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """Two pictures of a scene that differ in one object.

    Attributes:
        kind: removed, added, exchanged, recoloured or moved.
        before: First picture; None: the scene as it is.
        after: Second picture.
        asked: Questions about both.
    """

    kind: str
    before: Plan | None
    after: Plan
    asked: tuple[Asked, ...]


Maker = Callable[[random.Random, Plan, Rendered, bool], list[Change]]
"""Makes the changes of an aspect from a scene, its picture, and whether to ask with options."""


def entity_changes(rng: random.Random, plan: Plan, shown: Rendered, choice: bool) -> list[Change]:
    """Remove one object and add one; with options, exchange one."""
    there = {placed.name for placed in plan.objects}
    absent = [name for name in NAMES if name not in there]
    if choice:
        return _exchange(rng, plan, shown, absent)
    changes = []
    removable = removable_objects(plan)
    if removable:
        index = rng.choice(removable)
        asked = Asked(question_about(plan.objects[index].name, "proper"), "yes", "no")
        kept = Asked(question_about(rng.choice(absent), "proper"), "no", "no")
        changes.append(Change("removed", None, without_object(plan, index), (asked, kept)))
    name, kept_name = rng.choice(absent), rng.choice(sorted(there))
    after = with_object(rng, plan, name, rng.getrandbits(16))
    if after is not None and shows_the_rest(shown, render(after), len(plan.objects)):
        asked = Asked(question_about(name, "proper"), "no", "yes")
        kept = Asked(question_about(kept_name, "proper"), "yes", "yes")
        changes.append(Change("added", None, after, (asked, kept)))
    return changes


def _exchange(rng: random.Random, plan: Plan, shown: Rendered, absent: Sequence[str]) -> list[Change]:
    """Exchange one object for one of another category, and ask which of three is there."""
    candidates = list(plain_objects(plan))
    rng.shuffle(candidates)
    for index in candidates:
        new, *others = rng.sample(absent, 6)
        after = with_exchanged(plan, index, new, rng.getrandbits(16))
        if shows_the_rest(shown, render(after), index):
            old, kept = plan.objects[index].name, [i for i in range(len(plan.objects)) if i != index]
            asked = [_which(rng, "Which object is in the image?", old, new, others[:1])]
            if kept:
                stays = plan.objects[rng.choice(kept)].name
                asked.append(_which(rng, "Which object is in the image?", stays, stays, others[1:3]))
            return [Change("exchanged", None, after, tuple(asked))]
    return []


def number_changes(rng: random.Random, plan: Plan, shown: Rendered, choice: bool) -> list[Change]:
    """Add one more object of a category; of another one, half of the time, one more in both pictures."""
    counts = Counter(placed.name for placed in plan.objects)
    names = [name for name, count in counts.items() if count < len(WORDS)]
    rng.shuffle(names)
    for name in names:
        asked = _how_many(rng, name, counts[name], 0, 1, choice=choice)
        for other in [other for other in names if other != name][:_MOST_OTHERS]:
            found = _two_more(rng, plan, shown, other, name)
            if found is not None:
                more = rng.randint(0, 1)
                asked += _how_many(rng, other, counts[other], more, more, choice=choice)
                return [Change("added", *found[more], tuple(asked))]
        after = _one_more(rng, plan, shown, name)
        if after is not None:
            return [Change("added", None, after, tuple(asked))]
    return []


def _one_more(rng: random.Random, plan: Plan, shown: Rendered, name: str) -> Plan | None:
    """Add one more object of a category, drawn as the first one; None: there is no room."""
    variant = next(placed.variant for placed in plan.objects if placed.name == name)
    after = with_object(rng, plan, name, variant)
    return after if after is not None and shows_the_rest(shown, render(after), len(plan.objects)) else None


def _two_more(
    rng: random.Random, plan: Plan, shown: Rendered, other: str, name: str
) -> tuple[tuple[Plan | None, Plan], tuple[Plan | None, Plan]] | None:
    """Return the pictures before and after one more of a category, without one more of another one, and with it.

    None: there is no room for both. Either choice then finds room, so that the room does not tell which was made.
    """
    more = _one_more(rng, plan, shown, other)
    both = None if more is None else _one_more(rng, more, render(more), name)
    if more is None or both is None:
        return None
    last = len(plan.objects)
    alone = without_object(both, last)
    return ((None, alone), (more, both)) if shows_the_rest(shown, render(alone), last) else None


def colour_changes(rng: random.Random, plan: Plan, shown: Rendered, choice: bool) -> list[Change]:
    """Give one object one colour, then another; a second object keeps its colour."""
    visible = {i: o.visible for i, o in enumerate(shown.objects)}
    objects = [i for i in plain_objects(plan) if plan.objects[i].name not in _COLOURLESS and visible[i] >= 0.7]
    if not objects:
        return []
    index, *others = rng.sample(objects, len(objects))
    first, second, third, fourth = rng.sample(tuple(DYES), 4)
    stays = dict.fromkeys(others[:1], third)
    before, after = (with_dyes(plan, {index: colour, **stays}) for colour in (first, second))
    name = plan.objects[index].name
    if choice:
        asked = [_which(rng, f"Which colour is the {name}?", first, second, (third,))]
        for i in stays:
            text = f"Which colour is the {plan.objects[i].name}?"
            asked.append(_which(rng, text, third, third, (first, fourth)))
    else:
        asked = [Asked(f"Is the {name} {first}?", "yes", "no"), Asked(f"Is the {name} {second}?", "no", "yes")]
        for i in stays:
            said, answer = rng.choice(((third, "yes"), (fourth, "no")))
            asked.append(Asked(f"Is the {plan.objects[i].name} {said}?", answer, answer))
    return [Change("recoloured", before, after, tuple(asked))]


def relation_changes(rng: random.Random, plan: Plan, shown: Rendered, choice: bool) -> list[Change]:
    """Stand one object on one side of another one, then on the other side; it may be made smaller to fit."""
    tries = [(a, b, axis) for a in plain_objects(plan) for b in single_objects(plan) if a != b for axis in _SIDES]
    rng.shuffle(tries)
    for index, anchor, axis in tries[:_MOST_TRIES]:
        sides = rng.sample(_SIDES[axis], 2)
        plans = _both_sides(rng, plan, index, anchor, axis, sides)
        if plans is None:
            continue
        before, after = (render(each) for each in plans)
        clear = all(shows_the_rest(shown, each, index) for each in (before, after))
        if clear and [side_of(each, index, anchor, axis) for each in (before, after)] == sides:
            a, b = plan.objects[index].name, plan.objects[anchor].name
            asked = _about_sides(axis, a, b, *sides, choice=choice)
            asked += _kept_sides(rng, plan, before, after, index, choice)
            return [Change("moved", plans[0], plans[1], tuple(asked))]
    return []


ASPECTS: Mapping[str, Maker] = {
    "entity": entity_changes,
    "number": number_changes,
    "colour": colour_changes,
    "relation": relation_changes,
}


def side_of(shown: Rendered, index: int, anchor: int, axis: str) -> str | None:
    """Tell on which side of an object another one stands, by the centres of what is to be seen of them.

    Args:
        shown: The painted scene; all its objects show.
        index: Place in the plan of the object.
        anchor: Place of the other one.
        axis: "x" for left or right, "y" for above or below.

    Returns:
        The side; None: neither clearly.
    """
    at = "xy".index(axis)
    centres = [shown.objects[i].box[at] + shown.objects[i].box[at + 2] / 2 for i in (index, anchor)]
    gap = (centres[0] - centres[1]) / SIZE
    return None if abs(gap) < _GAP else _SIDES[axis][int(gap > 0)]


def _both_sides(
    rng: random.Random, plan: Plan, index: int, anchor: int, axis: str, sides: Sequence[str]
) -> tuple[Plan, Plan] | None:
    """Place an object, equally large, on each of two sides of another one; None: there is no room."""
    reference, own = plan.objects[anchor], plan.objects[index].side
    for side in (own, *(smaller for smaller in _SMALLER if smaller < own)):
        found = [with_moved(rng, plan, index, side, _on_side(reference, axis, at)) for at in sides]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    return None


def _on_side(reference: Placed, axis: str, side: str) -> Spot:
    """Return whether a centre is on a side of an object."""
    sign = 1 if side in ("right", "below") else -1
    return lambda x, y: sign * (x - reference.x if axis == "x" else y - reference.y) > _GAP


def _about_sides(axis: str, a: str, b: str, before: str, after: str, *, choice: bool) -> list[Asked]:
    """Ask on which side of b a stands."""
    first, second = _SIDES[axis]
    if choice:
        return [Asked(f"Is the {a} {_OF[first]} the {b} or {_OF[second]} it?", before, after, (first, second))]
    return [
        Asked(f"Is the {a} {_OF[side]} the {b}?", _yes(before == side), _yes(after == side)) for side in (before, after)
    ]


def _kept_sides(
    rng: random.Random, plan: Plan, before: Rendered, after: Rendered, index: int, choice: bool
) -> list[Asked]:
    """Ask for the sides of two objects that stay where they are."""
    objects = [i for i in single_objects(plan) if i != index]
    pairs = [(a, b, axis) for a in objects for b in objects if a != b for axis in _SIDES]
    rng.shuffle(pairs)
    for a, b, axis in pairs:
        side = side_of(before, a, b, axis)
        if side is not None and side_of(after, a, b, axis) == side:
            names = plan.objects[a].name, plan.objects[b].name
            if choice:
                return _about_sides(axis, *names, side, side, choice=True)
            said = rng.choice(_SIDES[axis])
            answer = _yes(side == said)
            return [Asked(f"Is the {names[0]} {_OF[said]} the {names[1]}?", answer, answer)]
    return []


def _exactly(name: str, said: int, before: int, after: int) -> Asked:
    """Ask whether there are exactly so many."""
    verb, word = ("Is", name) if said == 1 else ("Are", plural(name))
    text = f"{verb} there exactly {WORDS[said - 1]} {word} in the image?"
    return Asked(text, _yes(said == before), _yes(said == after))


def _how_many(rng: random.Random, name: str, least: int, before: int, after: int, *, choice: bool) -> list[Asked]:
    """Ask whether there are so many or one more, or which of the two.

    Both numbers are right equally often, so that neither the word nor the order of the options tells the answer. Three
    options would tell it: of three numbers in a row that hold two neighbours, the middle one is always among them.

    Args:
        rng: The only source of randomness.
        name: Category.
        least: The smaller number.
        before: How many more than that the first picture shows, 0 or 1.
        after: How many more than that the second picture shows, 0 or 1.
        choice: Whether to ask with options.
    """
    if choice:
        options = [WORDS[least - 1], WORDS[least]]
        answers = options[before], options[after]
        rng.shuffle(options)
        return [Asked(f"How many {plural(name)} are there?", *answers, tuple(options))]
    said = (0, 1) if before != after else (rng.randint(0, 1),)
    return [_exactly(name, least + more, least + before, least + after) for more in said]


def _which(rng: random.Random, text: str, before: str, after: str, others: Sequence[str]) -> Asked:
    """Ask with options in random order."""
    options = [*dict.fromkeys((before, after)), *others]
    rng.shuffle(options)
    return Asked(text, before, after, tuple(options))


def _yes(true: bool) -> str:
    return "yes" if true else "no"
