"""Truthful captions and questions about hard scenes.

A caption of 60 to 120 tokens names everything that the scene holds and nothing else. Large objects
come first, roughly; an object's companion (see `companions`) is named in the same sentence as the object,
whatever of it shows. The last sentence sums up what was named. Answers are true as well.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mmhall.benchmarks.scenes.companions import COMPANIONS, goes_with
from mmhall.benchmarks.scenes.hard import plan_hard_training_scene
from mmhall.benchmarks.scenes.language import (
    BRIEF,
    DESCRIBE,
    Fact,
    Turn,
    ask,
    brief,
    counted,
    join_names,
    mention,
    planned_facts,
    position,
)
from mmhall.benchmarks.scenes.world import NAMES, Place

_FILL = 0.6  # how often another object takes the second place of a sentence when no companion does
_DETAIL = 0.85
_SYNONYMS = 0.1
_LARGE, _SMALL = 0.08, 0.012  # visible share of the picture
_BEHIND = "Behind it all, there is a wall."
_PATTERNS = {
    "horizon": ("The ground meets the sky in the background.", "It is an outdoor scene."),
    "tiles": ("The wall is covered with tiles.", _BEHIND),
    "stripes": ("Upright lines run down the wall.", _BEHIND),
    "planks": ("Long lines run across the wall.", _BEHIND),
    "plain": ("The wall is plain.", _BEHIND),
}


def narrate(rng: random.Random, facts: Sequence[Fact], place: Place) -> str:
    """Write a caption: groups of one or two objects, details, remarks on the background, a summary."""
    groups, named, sentences = _group(rng, facts), list[Fact](), list[str]()
    for group in groups:
        sentences.append(_introduce(rng, group) if named else _open(rng, group, place))
        sentences += _detail(rng, group[0], named)
        named += group
    remarks = rng.sample(_PATTERNS[place.pattern], rng.choice((1, 2)))
    for remark in remarks:
        sentences.insert(rng.randint(1, len(sentences)), remark)
    sentences.append(
        f"Overall, the picture shows {join_names([counted(f.name, f.count) for f in named])} {place.phrase}."
    )
    return " ".join(sentences)


def truthful_conversation(rng: random.Random, facts: Sequence[Fact], place: Place, questions: int = 6) -> list[Turn]:
    """Make one caption and several questions about a hard scene; every word of it is true.

    Args:
        rng: Source of randomness.
        facts: What the scene shows.
        place: Place of the scene.
        questions: Number of yes/no questions; other kinds are added.
    """
    caption = Turn(rng.choice(DESCRIBE), narrate(rng, facts, place), "caption")
    if rng.random() < 0.05:
        caption = Turn(rng.choice(BRIEF), brief(rng, facts, place), "brief")
    present = {fact.name for fact in facts}
    asked = [rng.choice(facts).name if i % 2 == 0 else _absent(rng, facts, place) for i in range(questions)]
    turns = ask(rng, facts, place, present, asked)
    rng.shuffle(turns)
    return [caption, *turns]


def truthful_without_picture(rng: random.Random) -> list[Turn]:
    """Make a conversation without a picture, about a scene nobody sees."""
    plan = plan_hard_training_scene(rng)
    return truthful_conversation(rng, planned_facts(plan.objects), plan.place)


def every_word() -> list[str]:
    """List sentences with every word that these captions add to the language."""
    rng = random.Random(0)
    sentences = [text for texts in _PATTERNS.values() for text in texts]
    for _ in range(1000):
        sentences += [turn.answer for turn in truthful_without_picture(rng)]
    return sentences


def _group(rng: random.Random, facts: Sequence[Fact]) -> list[list[Fact]]:
    """Order the objects, large ones first in most cases, and put companions beside their objects.

    Beside an object without companion stands, in most cases, the next one that has none either.
    """
    rest = sorted(facts, key=lambda f: -f.area * rng.uniform(0.5, 2.0))
    groups: list[list[Fact]] = []
    while rest:
        first = rest.pop(0)
        names = [f.name for f in rest]
        second = next((f for f in rest if f.name == COMPANIONS[first.name]), None)
        if second is None and rng.random() < _FILL:
            second = next((f for f in rest if COMPANIONS[f.name] not in names), None)
        if second is not None:
            rest.remove(second)
        groups.append([first] if second is None else [first, second])
    return groups


def _open(rng: random.Random, group: Sequence[Fact], place: Place) -> str:
    """Write the first sentence."""
    things = join_names([mention(rng, f, _SYNONYMS) for f in group])
    return f"The {rng.choice(('image', 'picture'))} shows {things} {place.phrase}."


def _introduce(rng: random.Random, group: Sequence[Fact]) -> str:
    """Write the sentence in which a later group is named first."""
    first, where = group[0], position(group[0])
    there = f"there {'are' if first.count > 1 else 'is'} {mention(rng, first, _SYNONYMS)}"
    tail = f", together with {mention(rng, group[1], _SYNONYMS)}" if len(group) > 1 else ""
    if rng.random() < 0.5:
        return f"{where[0].upper() + where[1:]}, {there}{tail}."
    return f"{there[0].upper() + there[1:]} {where}{tail}."


def _detail(rng: random.Random, fact: Fact, named: Sequence[Fact]) -> list[str]:
    """Write at most one more sentence about an object: its size, or where it is."""
    if rng.random() >= _DETAIL or fact.count > 1:
        return []
    if fact.area >= _LARGE and rng.random() < 0.5:
        return [f"The {fact.name} takes up a large part of the picture."]
    if fact.area <= _SMALL and rng.random() < 0.5:
        return [f"The {fact.name} looks small."]
    where = _relation(fact, rng.choice(named)) if named else position(fact)
    return [f"The {fact.name} is {where}."] if where else []


def _relation(fact: Fact, anchor: Fact) -> str:
    """Say where an object is, seen from another one; empty if the two are close or of several instances."""
    dx, dy = fact.x - anchor.x, fact.y - anchor.y
    if max(abs(dx), abs(dy)) < 0.2 or max(fact.count, anchor.count) > 1:
        return ""
    if abs(dx) >= abs(dy):
        return f"to the {'left' if dx < 0 else 'right'} of the {anchor.name}"
    return f"{'above' if dy < 0 else 'below'} the {anchor.name}"


def _absent(rng: random.Random, facts: Sequence[Fact], place: Place) -> str:
    """Choose an absent category: in 55 % of cases one that fits the scene, companions before others."""
    present = {fact.name for fact in facts}
    if rng.random() < 0.55:
        weights = {n: w / max(place.members.values()) for n, w in place.members.items() if n not in present}
        for fact in facts:
            if (companion := COMPANIONS[fact.name]) not in present:
                weights[companion] = 6.0 if goes_with(fact.name, place) else 2.0
        if weights:
            return rng.choices(tuple(weights), tuple(weights.values()))[0]
    return rng.choice([name for name in NAMES if name not in present])
