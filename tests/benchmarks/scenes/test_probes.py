"""Changed scenes: exactly one object differs, and what is asked is true on the painted pixels."""

from __future__ import annotations

import colorsys
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mmhall.benchmarks.scenes import make_scene
from mmhall.benchmarks.scenes.language import plural
from mmhall.benchmarks.scenes.pairs import removable_objects, shows_the_rest, with_dyes, with_exchanged, with_object
from mmhall.benchmarks.scenes.probes import ASPECTS, WORDS, _how_many, number_changes, side_of
from mmhall.benchmarks.scenes.render import DYES, render

SCENES = 4


@pytest.fixture(scope="module")
def changes():
    """Aspect and form to a list of (plan, change)."""
    found = {}
    for index in range(SCENES):
        plan = make_scene(3, index).plan
        shown = render(plan)
        for aspect, maker in ASPECTS.items():
            for choice in (False, True):
                made = maker(random.Random(index), plan, shown, choice)
                found.setdefault((aspect, choice), []).extend((plan, change) for change in made)
    return found


def before_and_after(plan, change):
    return change.before or plan, change.after


@pytest.mark.slow
def test_every_aspect_changes_most_scenes(changes):
    for key, made in changes.items():
        assert len(made) >= SCENES // 2, key
        assert all(change.asked[0].before != change.asked[0].after for _, change in made), key


@pytest.mark.slow
def test_one_object_differs_and_the_others_stay_visible(changes):
    for made in changes.values():
        for plan, change in made:
            before, after = (render(each) for each in before_and_after(plan, change))
            first, second = before_and_after(plan, change)
            assert replace(first, objects=()) == replace(second, objects=())
            gone = [o for o in first.objects if o not in second.objects]
            new = [o for o in second.objects if o not in first.objects]
            assert (len(gone), len(new)) == {"removed": (1, 0), "added": (0, 1)}.get(change.kind, (1, 1))
            kept = [(o, i, second.objects.index(o)) for i, o in enumerate(first.objects) if o in second.objects]
            for _, i, j in kept:
                assert (after.owner == j).sum() >= 0.9 * (before.owner == i).sum()
            changed = np.asarray(before.image) != np.asarray(after.image)
            assert 0.001 < changed.any(axis=-1).mean() < 0.45


def names_of(plan):
    return Counter(placed.name for placed in plan.objects)


def test_entity_questions_are_true(changes):
    for plan, change in changes["entity", False]:
        for shown, which in zip(before_and_after(plan, change), ("before", "after"), strict=True):
            for asked in change.asked:
                name = asked.text.removeprefix("Is there a").removeprefix("n").removesuffix(" in the image?").strip()
                assert getattr(asked, which) == ("yes" if names_of(shown)[name] else "no"), asked
    for plan, change in changes["entity", True]:
        for shown, which in zip(before_and_after(plan, change), ("before", "after"), strict=True):
            for asked in change.asked:
                assert [option for option in asked.options if names_of(shown)[option]] == [getattr(asked, which)]


def test_number_questions_are_true(changes):
    words = {"one": 1, "two": 2, "three": 3, "four": 4}
    for choice in (False, True):
        for plan, change in changes["number", choice]:
            new = next(iter((names_of(change.after) - names_of(change.before or plan)).elements()))
            for shown, which in zip(before_and_after(plan, change), ("before", "after"), strict=True):
                for asked in change.asked:
                    said = getattr(asked, which)
                    about = next(name for name in names_of(shown) if name in asked.text or plural(name) in asked.text)
                    assert (about == new) == (asked.before != asked.after)
                    if choice:
                        assert words[said] == names_of(shown)[about]
                        assert said in asked.options
                    else:
                        number = words[asked.text.split("exactly ")[1].split()[0]]
                        assert said == ("yes" if names_of(shown)[about] == number else "no")


@pytest.mark.slow
def test_neither_words_nor_options_tell_a_number():
    """Of two neighbouring numbers each is right as often: of changed pairs exactly, of kept ones as a coin falls."""
    right = Counter()
    for index in range(2):
        plan = make_scene(3, index).plan
        shown = render(plan)
        for seed in range(4):
            for change in number_changes(random.Random(seed), plan, shown, True):
                for asked in change.asked:
                    first, second = sorted(map(WORDS.index, asked.options))
                    assert second == first + 1
                    kept = asked.before == asked.after
                    right.update((kept, WORDS.index(answer) - first) for answer in (asked.before, asked.after))
    assert right[False, 0] == right[False, 1] > 0
    assert min(right[True, 0], right[True, 1]) > 0


def test_asked_and_true_numbers_of_kept_pairs_are_independent():
    """Two or three are asked for; 400 questions with each true number: within three standard deviations of 200."""
    for more in (0, 1):
        asked = [
            one for seed in range(400) for one in _how_many(random.Random(seed), "cup", 2, more, more, choice=False)
        ]
        answers = Counter((one.text, one.before) for one in asked)
        texts = [f"Are there exactly {word} cups in the image?" for word in ("two", "three")]
        assert set(answers) == {(texts[more], "yes"), (texts[1 - more], "no")}
        assert 170 <= answers[texts[more], "yes"] <= 230
    changed = _how_many(random.Random(0), "cup", 2, 0, 1, choice=False)
    assert [(one.before, one.after) for one in changed] == [("yes", "no"), ("no", "yes")]


def test_a_dyed_object_has_one_hue():
    """Of the pixels that belong to it alone; its edge is mixed with the background."""
    plan = make_scene(3, 1).plan
    place = removable_objects(plan)[0]
    clear = replace(plan, objects=(replace(plan.objects[place], opacity=1.0, cover=0.0, visibility="clear"),))
    for name, colour in DYES.items():
        painted = render(with_dyes(clear, {0: name}))
        pixels = np.asarray(painted.image)[painted.owner == 0] / 255
        hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in pixels])
        want = colorsys.rgb_to_hsv(*(part / 255 for part in colour))[0]
        apart = np.abs((hues - want + 0.5) % 1 - 0.5)
        assert (apart < 0.03).mean() > 0.9, name


def test_colour_questions_are_true(changes):
    for plan, change in changes["colour", False]:
        for shown, which in zip(before_and_after(plan, change), ("before", "after"), strict=True):
            dyes = {placed.name: placed.dye for placed in shown.objects if placed.dye}
            assert 1 <= len(dyes) <= 2
            for asked in change.asked:
                name, colour = asked.text.removeprefix("Is the ").removesuffix("?").rsplit(" ", 1)
                assert getattr(asked, which) == ("yes" if dyes[name] == colour else "no")


@pytest.mark.slow
def test_relation_questions_are_true_of_what_is_painted(changes):
    sides = {"left": "x", "right": "x", "above": "y", "below": "y"}
    for plan, change in changes["relation", False]:
        for shown, which in zip(before_and_after(plan, change), ("before", "after"), strict=True):
            places = {placed.name: i for i, placed in enumerate(shown.objects)}
            for asked in change.asked:
                side = next(side for side in sides if side in asked.text)
                a, b = asked.text.removeprefix("Is the ").removesuffix("?").split(f" {side} ")
                a, b = a.removesuffix(" to the"), b.removeprefix("of ").removeprefix("the ")
                there = side_of(render(shown), places[a], places[b], sides[side])
                assert getattr(asked, which) == ("yes" if there == side else "no"), asked.text


def test_a_hidden_change_is_refused():
    """An object behind others, and one that hides another, do not count."""
    plan = make_scene(3, 2).plan
    added = with_object(random.Random(0), plan, "kite", 0)
    assert added is not None
    shown, place = render(plan), len(plan.objects)
    assert shows_the_rest(shown, render(added), place)
    hiding = replace(added.objects[-1], x=plan.objects[0].x, y=plan.objects[0].y, side=0.9)
    assert not shows_the_rest(shown, render(replace(added, objects=(*plan.objects, hiding))), place)
    tiny = replace(added.objects[-1], side=0.02)
    assert not shows_the_rest(shown, render(replace(added, objects=(*plan.objects, tiny))), place)


def test_an_exchange_keeps_the_place():
    plan = make_scene(3, 2).plan
    exchanged = with_exchanged(plan, 0, "kite", 1)
    assert exchanged.objects[0].name == "kite"
    assert (exchanged.objects[0].x, exchanged.objects[1:]) == (plan.objects[0].x, plan.objects[1:])


def test_two_centres_that_are_near_have_no_side():
    plan = make_scene(3, 2).plan

    def shown(x, y):
        first = replace(plan.objects[0], x=x, y=y, side=0.2, cover=0.0, tilt=0.0)
        second = replace(plan.objects[0], name="kite", x=0.5, y=0.5, side=0.2, cover=0.0, tilt=0.0)
        return render(replace(plan, objects=(first, second), scenery=()))

    assert [side_of(shown(x, y), 0, 1, axis) for x, y, axis in ((0.2, 0.5, "x"), (0.8, 0.5, "x"), (0.4, 0.8, "x"))] == [
        "left", "right", None,
    ]  # fmt: skip
    assert [side_of(shown(x, y), 0, 1, "y") for x, y in ((0.8, 0.2), (0.5, 0.8))] == ["above", "below"]
