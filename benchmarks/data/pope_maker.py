"""Generator of POPE's questions about any pictures with known objects."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from mmhall.benchmarks.data.pictures import Picture, PictureSet
from mmhall.benchmarks.rules.yesno import Label
from mmhall.errors import DataError

SETTINGS = ("random", "popular", "adversarial")
PER_PICTURE = 3
POSITIVES = ("first", "random")
FREQUENCIES = ("sampled", "whole")


@dataclass(frozen=True, slots=True)
class Question:
    """One yes/no question about an object in a picture.

    Attributes:
        picture: Id of the picture.
        object: Object it asks for; None if the text has another form.
        text: The question without a suffix; "": not worded yet.
        label: The right answer.
        ids: Setting to the question's numbers in it, usually one; a repeated question counts each time.
        visibility: Visibility of a present object, if known.
    """

    picture: str
    object: str | None
    text: str
    label: Label
    ids: Mapping[str, list[int | str]]
    visibility: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of the generator; the defaults are the authors', except for their 500 drawn pictures.

    Attributes:
        per_picture: Number of present objects asked for in a picture, and of absent ones.
        positives: Which present objects: the "first" listed, or drawn at "random".
        draw: Number of pictures to draw; 0: all.
        frequency: Where object frequencies are counted: on the pictures "sampled", or the "whole" file.
    """

    per_picture: int = PER_PICTURE
    positives: str = "first"
    draw: int = 0
    frequency: str = "sampled"


def make_questions(
    pictures: PictureSet, seed: int, recipe: Recipe, texts: Mapping[str, str] = MappingProxyType({})
) -> list[Question]:
    """Make the questions of all three settings, by picture; a question of several settings appears once.

    Args:
        pictures: The pictures.
        seed: Seed of the random choices.
        recipe: Settings of the generator.
        texts: Category to the text of its question; "" for what is left out.

    Raises:
        DataError: Too few pictures have enough objects, present and absent.
    """
    used = _usable_pictures(pictures, seed, recipe)
    scope = _Scope(used if recipe.frequency == "sampled" else pictures.pictures, pictures.categories)
    present = {p.id: _present_objects(p, seed, recipe) for p in used}
    ids: dict[tuple[str, str], dict[str, list[int | str]]] = {}
    for setting in SETTINGS:
        rng = random.Random(f"pope/{setting}/{seed}")
        pairs = (pair for p in used for pair in scope.asked(p, present[p.id], setting, rng))
        for number, pair in enumerate(pairs, start=1):
            ids.setdefault(pair, {})[setting] = [number]
    by_id = {p.id: p for p in used}
    order = {p.id: i for i, p in enumerate(used)}  # by picture: a partial run is then balanced
    return [
        Question(
            picture,
            name,
            texts.get(name, ""),
            "yes" if name in by_id[picture].objects else "no",
            numbers,
            by_id[picture].visibility.get(name, ""),
        )
        for (picture, name), numbers in sorted(ids.items(), key=lambda pair: order[pair[0][0]])
    ]


def crowded_pictures(pictures: PictureSet, recipe: Recipe) -> list[Picture]:
    """Return the pictures left out: they have enough present objects, but too few absent categories."""
    categories, needed = len(pictures.categories), recipe.per_picture
    return [p for p in pictures.pictures if needed <= len(p.objects) and categories < len(p.objects) + needed]


def _usable_pictures(pictures: PictureSet, seed: int, recipe: Recipe) -> list[Picture]:
    showing = [p for p in pictures.pictures if len(p.objects) >= recipe.per_picture]
    if not showing:
        raise DataError(f"pope: no picture has {recipe.per_picture} objects; it needs some that do")
    left_out = {p.id for p in crowded_pictures(pictures, recipe)}
    fit = [p for p in showing if p.id not in left_out]
    if not fit:
        raise DataError(
            f"pope: every picture shows so many of the {len(pictures.categories)} categories that fewer than "
            f"{recipe.per_picture} absent ones are left to ask for; lower per_picture, or name more categories"
        )
    if recipe.draw > len(fit):
        besides = f" and as many absent categories ({len(left_out)} do not)" if left_out else ""
        raise DataError(
            f"pope: draw={recipe.draw}, but only {len(fit)} pictures have {recipe.per_picture} objects{besides}; "
            "draw fewer"
        )
    if not recipe.draw:
        return fit
    drawn = random.Random(f"pope/pictures/{seed}").sample(range(len(fit)), recipe.draw)
    return [fit[i] for i in sorted(drawn)]


def _present_objects(picture: Picture, seed: int, recipe: Recipe) -> Sequence[str]:
    """Return the present objects to ask for; they are the same in every setting."""
    if recipe.positives == "first":
        return picture.objects[: recipe.per_picture]
    return random.Random(f"pope/positives/{seed}/{picture.id}").sample(picture.objects, recipe.per_picture)


class _Scope:
    """Frequencies and co-occurrences of objects, for the choice of absent objects."""

    def __init__(self, pictures: Sequence[Picture], categories: Sequence[str]) -> None:
        self._categories = categories
        frequency = Counter(name for p in pictures for name in p.objects)
        together: dict[str, Counter[str]] = {name: Counter() for name in frequency}
        for p in pictures:
            for a in p.objects:
                together[a].update(b for b in p.objects if b != a)
        self._everything = sorted(frequency)
        self._popular = [name for name, _ in frequency.most_common()]
        self._beside = {name: [n for n, _ in others.most_common()] for name, others in together.items()}

    def asked(
        self, picture: Picture, present: Sequence[str], setting: str, rng: random.Random
    ) -> Iterator[tuple[str, str]]:
        """Yield (picture, object) in the order of the official generator: yes, no, yes, no, ..."""
        taken = set(picture.objects)
        for name in present:
            ranked = {"random": [], "popular": self._popular, "adversarial": self._beside[name]}[setting]
            absent = next((n for n in ranked if n not in taken), None)
            if absent is None:
                absent = self._draw_absent(taken, rng)
            taken.add(absent)
            yield picture.id, name
            yield picture.id, absent

    def _draw_absent(self, taken: set[str], rng: random.Random) -> str:
        free = [n for n in self._everything if n not in taken] or [n for n in self._categories if n not in taken]
        return rng.choice(free)
