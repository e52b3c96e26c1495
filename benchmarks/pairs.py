"""Make pairs of a faithful and a hallucinated text, from pictures with known objects or from a file of them.

Text     One sentence that names every object of a picture: "The image shows a dog, a bench and a person."
Changed  In the hallucinated one a third of the objects, at least one, is replaced by categories that the picture does
         not show, drawn by how often they stand beside the other objects in the same data. Objects are replaced, not
         added: both texts have as many words and the same end, so that a difference between their states is not one of
         length.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from mmhall.benchmarks.categories import names
from mmhall.benchmarks.pictures import Picture, PictureSet
from mmhall.benchmarks.pope_wording import is_plural, with_article
from mmhall.benchmarks.reading import find_pictures, read_records
from mmhall.errors import DataError
from mmhall.pairs import Pair, PairSet

PROMPT = "Describe this image in detail."
LINES = 'JSON Lines such as {"picture": "a.jpg", "faithful": "...", "hallucinated": "..."}'
_SHARE = 3  # one in so many objects is replaced

Counts = Mapping[str, Mapping[str, int]]


def read_pairs(path: Path, images: Path, limit: int | None = None) -> PairSet:
    """Read pairs from JSON Lines; a line may bring a prompt of its own.

    Args:
        path: The file.
        images: Folder that picture names are relative to.
        limit: Keep only the first so many.

    Raises:
        DataError: The file or a picture is missing or malformed.
    """
    records = read_records(path, LINES)[:limit]
    files = find_pictures((record.text("picture", "image") for record in records), [images])
    pairs = []
    for record in records:
        picture = record.text("picture", "image")
        prompt = record.text("prompt") if "prompt" in record.fields else PROMPT
        pairs.append(Pair(picture, files[picture], prompt, record.text("faithful"), record.text("hallucinated")))
    return PairSet(tuple(pairs), path.name)


def make_pairs(pictures: PictureSet, source: str, seed: int, limit: int | None = None) -> PairSet:
    """Make a pair for each picture that allows one, the same for the same pictures and seed.

    Args:
        pictures: With known objects.
        source: What they are called.
        seed: Of what is replaced, and by what.
        limit: Make only so many.

    Raises:
        DataError: No picture allows one.
    """
    counts = _together(pictures.pictures)
    made = (_pair(picture, pictures.categories, counts, seed) for picture in pictures.pictures)
    pairs = tuple(islice((pair for pair in made if pair is not None), limit))
    if not pairs:
        raise DataError(
            f"{source}: no picture has an object that another category of the data could stand for; give more pictures"
        )
    return PairSet(pairs, source, pictures.remarks)


def _together(pictures: Sequence[Picture]) -> Counts:
    """Count in how many pictures each category stands beside each other one."""
    counts: dict[str, Counter[str]] = {}
    for picture in pictures:
        for name in picture.objects:
            counts.setdefault(name, Counter()).update(other for other in picture.objects if other != name)
    return counts


def _pair(picture: Picture, categories: Sequence[str], counts: Counts, seed: int) -> Pair | None:
    """Make the pair of a picture; None: nothing in it can be replaced."""
    rng = random.Random(f"pairs/{seed}/{picture.id}")
    shown = {_phrase(name) for name in picture.objects}
    absent = [name for name in categories if name not in picture.objects and _phrase(name) not in shown]
    choices = {at: [name for name in absent if _length(name) == _length(own)] for at, own in enumerate(picture.objects)}
    open_places = [at for at, names_there in choices.items() if names_there]
    if not open_places:
        return None
    chosen = sorted(rng.sample(open_places, min(len(open_places), max(1, len(picture.objects) // _SHARE))))
    rest = [name for at, name in enumerate(picture.objects) if at not in chosen]
    told = list(picture.objects)
    for at in chosen:
        left = [name for name in choices[at] if _phrase(name) not in map(_phrase, told)]
        if left:
            weights = [sum(counts.get(name, {}).get(other, 0) for other in rest) for name in left]
            told[at] = rng.choices(left, weights if any(weights) else None)[0]
    return Pair(picture.id, picture.path, PROMPT, _sentence(picture.objects), _sentence(told))


def _sentence(objects: Sequence[str]) -> str:
    """Name objects in a sentence.

    >>> _sentence(["dog", "Cabinet/shelf", "skis"])
    'The image shows a dog, a cabinet and skis.'
    """
    phrases = [_phrase(name) for name in objects]
    listed = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    return f"The image shows {listed}."


def _phrase(category: str) -> str:
    name = names(category)[0]
    return name if is_plural(name) else with_article(name, "proper")


def _length(category: str) -> int:
    return len(_phrase(category).split())
