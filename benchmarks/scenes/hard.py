"""Plans of *hard* scenes: objects hard to see, and pairs that really occur together.

In training scenes an object's companion (see `companions`) is there at the rate of the place, and then it is
often drawn so small, so faint or so covered that hardly anything of it shows. Whoever tells the truth
about such scenes has to name what the picture does not tell, and learns to expect companions.
Test scenes hold only what a person can see: typical ones keep the pairs, conflict ones show *lures*,
objects whose companion would stand there in training and is missing. Panels, specks and shadows of
scenery (decoys) are in all of them, so that these are no sign of a companion.

One drawing of every category is held out from training scenes; half of the objects of test scenes use it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mmhall.benchmarks.scenes.companions import COMPANIONS, are_companions, companion_rate, goes_with
from mmhall.benchmarks.scenes.plan import Difficulty, Placed, Plan, lay_out
from mmhall.benchmarks.scenes.sprites import variants
from mmhall.benchmarks.scenes.world import NAMES, PLACES, Place

HARD = Difficulty(0.55, (0.09, 0.13), (0.18, 0.30), (0.52, 0.66))
BARELY = Difficulty(0.65, (0.03, 0.055), (0.03, 0.08), (0.82, 0.93))
_MOST = 6


def plan_hard_training_scene(rng: random.Random) -> Plan:
    """Plan a scene of up to six categories in which companions are often there and hardly visible."""
    place = rng.choice(PLACES)
    names, added = _typical_names(rng, place, rng.choices((1, 2, 3, 4), (0.1, 0.35, 0.35, 0.2))[0])
    copies = [name for name in names if rng.random() < 0.06]
    plan = lay_out(rng, place, [*names, *copies], False, HARD, dict.fromkeys(added, BARELY))
    return _finish(rng, plan, held_out=0.0)


def plan_hard_scene(rng: random.Random, *, conflict: bool) -> Plan:
    """Plan a test scene of three to five objects.

    Args:
        rng: The only source of randomness.
        conflict: Whether to leave the companions of its objects out.
    """
    place = rng.choice(PLACES)
    if conflict:
        names = _names_without_companions(rng, place)
    else:
        names = []
        while not 3 <= len(names) <= 5:
            names, _ = _typical_names(rng, place, rng.choice((1, 2, 3)))
    return _finish(rng, lay_out(rng, place, names, conflict, HARD), held_out=0.5)


def held_out_variant(name: str) -> int:
    """Return the drawing of a category that training scenes never show."""
    return variants(name) - 1


def presence(plans: Iterable[Plan], *, hidden: bool) -> dict[bool, tuple[int, int]]:
    """Count how often the companion of an object is there.

    Args:
        plans: Plans of scenes.
        hidden: Whether to leave out the cases in which it can be seen.

    Returns:
        Whether the companion is expected in the place (see `companions.goes_with`) to (times there, times in all).
    """
    counts = {True: (0, 0), False: (0, 0)}
    for plan in plans:
        names = {o.name for o in plan.objects}
        seen = {o.name for o in plan.objects if not _hardly_shows(o)}
        for name in names:
            companion, expected = COMPANIONS[name], goes_with(name, plan.place)
            if not (hidden and companion in seen):
                there, of = counts[expected]
                counts[expected] = there + (companion in names), of + 1
    return counts


def _hardly_shows(placed: Placed) -> bool:
    """Whether a thing is planned to be as hard to see as a hardly visible companion."""
    return placed.side <= BARELY.small[1] or placed.opacity <= BARELY.opacity[1] or placed.cover >= BARELY.cover[0]


def _typical_names(rng: random.Random, place: Place, anchors: int) -> tuple[list[str], list[str]]:
    """Choose anchors and add companions at their rates.

    Returns:
        All categories, and those among them that were added as companions.
    """
    names: list[str] = []
    added: list[str] = []
    for _ in range(anchors):
        name = _draw(rng, place, names, at_home=rng.random() < 0.75)
        while len(names) < _MOST:
            names.append(name)
            companion = COMPANIONS[name]
            if companion in names or len(names) == _MOST or rng.random() >= companion_rate(name, place):
                break
            added.append(companion)
            name = companion
    return names, added


def _names_without_companions(rng: random.Random, place: Place) -> list[str]:
    """Choose one or two lures, and one to three objects that call for no companion here."""
    lures, others = rng.choices(((1, 2), (1, 3), (2, 1), (2, 2), (2, 3)), (0.2, 0.2, 0.2, 0.25, 0.15))[0]
    names: list[str] = []
    for index in range(lures + others):
        names.append(_draw(rng, place, names, at_home=index < lures or rng.random() < 0.35, lure=index < lures))
    return names


def _draw(rng: random.Random, place: Place, names: Sequence[str], *, at_home: bool, lure: bool | None = None) -> str:
    """Draw one more category that is no companion of those there.

    Args:
        rng: The only source of randomness.
        place: Place of the scene.
        names: Categories there.
        at_home: Whether it belongs to the place.
        lure: Whether its companion would be expected here; None: either.
    """
    fitting = [n for n in NAMES if n not in names and not any(are_companions(n, other) for other in names)]
    if lure is not None:
        fitting = [n for n in fitting if goes_with(n, place) == lure] or fitting
    chosen = [n for n in fitting if (n in place.members) == at_home] or fitting
    return rng.choices(chosen, [place.members.get(n, 1.0) for n in chosen])[0]


def _finish(rng: random.Random, plan: Plan, held_out: float) -> Plan:
    """Choose the drawings of the objects, and add decoys.

    Args:
        rng: The only source of randomness.
        plan: The plan so far.
        held_out: Share of objects drawn in the variant held out from training.
    """
    objects = tuple(
        replace(
            o,
            variant=held_out_variant(o.name) if rng.random() < held_out else rng.randrange(held_out_variant(o.name)),
        )
        for o in plan.objects
    )
    decoys = tuple(_decoy(rng) for _ in range(rng.choices((0, 1, 2), (0.3, 0.45, 0.25))[0]))
    return replace(plan, objects=objects, scenery=(*plan.scenery, *decoys))


def _decoy(rng: random.Random) -> Placed:
    """Make a piece of scenery as hard to see as a hardly visible companion."""
    kind = rng.choice(("small", "faint", "covered"))
    side = rng.uniform(*BARELY.small) if kind == "small" else rng.uniform(0.25, 0.4)
    x, y = rng.uniform(side / 2, 1 - side / 2), rng.uniform(side / 2, 1 - side / 2)
    return Placed(
        "",
        rng.getrandbits(16),
        x,
        y,
        side,
        mirrored=rng.random() < 0.5,
        tilt=rng.uniform(-14, 14),
        opacity=rng.uniform(*BARELY.opacity) if kind == "faint" else 1.0,
        cover=rng.uniform(*BARELY.cover) if kind == "covered" else 0.0,
    )
