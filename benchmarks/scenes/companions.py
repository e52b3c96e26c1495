"""Which objects really go together in hard scenes.

Each category has one *companion*: the strongest partner of `world.PARTNERS`. Where both
are at home in a place, the companion stands beside the object in most scenes there (fork and knife in
a restaurant); elsewhere seldom (a fork in a park). So the object and its place together, not the object
alone, tell whether the companion is there.
"""

from __future__ import annotations

from mmhall.benchmarks.scenes.world import PARTNERS, Place

OFTEN = 0.92
SELDOM = 0.12
COMPANIONS: dict[str, str] = {name: max(weights, key=lambda n: weights[n]) for name, weights in PARTNERS.items()}


def goes_with(name: str, place: Place) -> bool:
    """Tell whether an object comes with its companion in most scenes of a place."""
    return name in place.members and COMPANIONS[name] in place.members


def companion_rate(name: str, place: Place) -> float:
    """Return the probability that hard scenes add an object's companion to it in a place."""
    return OFTEN if goes_with(name, place) else SELDOM


def are_companions(a: str, b: str) -> bool:
    """Tell whether one of two categories is the companion of the other."""
    return COMPANIONS[a] == b or COMPANIONS[b] == a
