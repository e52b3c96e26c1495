"""Language-prior instances of drawn scenes: an object with its usual companion, and the same without it.

World     Common sense of drawn scenes is which objects go together (`scenes.companions`). An instance is an object at
          home in a place, and its companion, also at home there: a fork and a knife in a restaurant.
Pictures  The factual one shows both, and one or two further objects. In the best counterfactual one, an object that is
          no one's companion here and not at home in the place stands where the companion was; everything else keeps
          its pixels. Further counterfactual pictures show the same objects in other places. All are clear to see.
Words     The true statement names the unusual object, the false one the missing companion. The existent noun is the
          object itself, the absent one something unrelated.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmhall.benchmarks.data.pope_wording import question_about, with_article
from mmhall.benchmarks.data.redrawn import scene_info
from mmhall.benchmarks.data.vlind import Instance
from mmhall.benchmarks.scenes.companions import COMPANIONS, goes_with
from mmhall.benchmarks.scenes.dataset import picture_name
from mmhall.benchmarks.scenes.pairs import shows_the_rest, with_exchanged
from mmhall.benchmarks.scenes.plan import Difficulty, Plan, lay_out
from mmhall.benchmarks.scenes.render import Rendered, render
from mmhall.benchmarks.scenes.world import NAMES, PLACES, Place, are_partners

PRIORS = "priors"
"""Folder of the pictures, beside those of the scenes."""

_CLEAR = Difficulty(0.0, (0.2, 0.3), (1.0, 1.0), (0.0, 0.0))


def draw_instances(
    annotations: Path, seed: int, pictures: int, limit: int | None = None
) -> tuple[list[Instance], dict[str, Plan]]:
    """Plan as many instances as there are drawn scenes; return them and the plan of each picture by its name.

    Args:
        annotations: Annotation file of the scenes; their number and seed are used.
        seed: Seed of the instances.
        pictures: Counterfactual pictures of an instance.
        limit: Number of instances, from the first; None: all.
    """
    info = scene_info(annotations)
    instances: list[Instance] = []
    plans: dict[str, Plan] = {}
    for index in range(min(info["count"], limit or info["count"])):
        rng = random.Random(f"priors/{info['seed']}/{seed}/{index}")
        instance, own = _instance(rng, Path(picture_name(index)).stem, pictures)
        instances.append(instance)
        plans |= own
    return instances, plans


def _instance(rng: random.Random, stem: str, pictures: int) -> tuple[Instance, dict[str, Plan]]:
    place = rng.choice([place for place in PLACES if any(goes_with(name, place) for name in place.members)])
    name = rng.choice([name for name in place.members if goes_with(name, place)])
    usual = COMPANIONS[name]
    others = _unrelated(rng, place, (name, usual), at_home=True)[: rng.randint(1, 2)]
    unusual, *_ = strange = _unrelated(rng, place, (name, usual, *others), at_home=False)
    absent = strange[1]
    factual, best = _pair(rng, place, (name, usual, *others), unusual)
    further = [_clear(rng, place, (name, unusual, *others)) for _ in range(pictures - 1)]
    names = [f"{stem}_without_{number}.png" for number in range(pictures)]
    plans = {f"{stem}_with.png": factual, **dict(zip(names, [best, *further], strict=True))}
    a, b, c, d = (with_article(each, "proper") for each in (name, unusual, usual, absent))
    return (
        Instance(
            stem,
            place.name,
            f"The image shows {a} and {b} {place.phrase}, and no {usual}.",
            f"There is {b} in the image.",
            f"There is {c} in the image.",
            a,
            d,
            f"{stem}_with.png",
            names[0],
            tuple(names),
            tuple(question_about(each, "proper") for each in (unusual, usual, name, absent)),
        ),
        plans,
    )


def _unrelated(rng: random.Random, place: Place, names: Sequence[str], *, at_home: bool) -> list[str]:
    """Return categories that are no partner of any of these, in random order."""
    found = [
        name
        for name in NAMES
        if (name in place.members) == at_home
        and name not in names
        and not any(are_partners(name, other) for other in names)
    ]
    rng.shuffle(found)
    return found


def _pair(rng: random.Random, place: Place, names: Sequence[str], unusual: str) -> tuple[Plan, Plan]:
    """Plan a scene, and the same with an unusual object in place of its second category."""
    while True:
        factual = _clear(rng, place, names)
        index = next(i for i, placed in enumerate(factual.objects) if placed.name == names[1])
        best = replace(with_exchanged(factual, index, unusual, rng.getrandbits(16)), conflict=True)
        if shows_the_rest(render(factual), render(best), index):
            return factual, best


def _clear(rng: random.Random, place: Place, names: Sequence[str]) -> Plan:
    """Plan a scene in which every object is clear to see."""
    while True:
        plan = lay_out(rng, place, names, conflict=False, difficulty=_CLEAR)
        if _all_show(render(plan), len(names)):
            return plan


def _all_show(shown: Rendered, count: int) -> bool:
    return len(shown.objects) == count and all(each.area >= 400 and each.visible >= 0.85 for each in shown.objects)
