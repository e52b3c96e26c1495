"""Pairs of a faithful and a hallucinated text, made from pictures with known objects or read from a file.

Text     One sentence that names every object of a picture: "The image shows a dog, a bench and a person."
Changed  In the hallucinated one a third of the objects, at least one, is replaced by categories that the picture does
         not show, drawn by how often they stand beside the other objects in the same data. Objects are replaced, not
         added: both texts have equally many words and the same end, so that a difference of their states is not one of
         length.
Captions With human captions, each picture's first suitable caption takes the sentence's place, and one
         object of it is replaced in the hallucinated text. Objects in any caption of the picture count as present.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from mmhall.benchmarks.data.caption_swaps import end_with_stop, swap_object
from mmhall.benchmarks.data.pictures import Picture, PictureSet
from mmhall.benchmarks.data.pope_wording import is_plural, with_article
from mmhall.benchmarks.data.reading import find_pictures, read_records
from mmhall.benchmarks.data.vocabulary import Vocabulary, own_vocabulary
from mmhall.errors import DataError
from mmhall.objects.categories import names
from mmhall.strategies import Pair, PairSet

PROMPT = "Describe this image in detail."
LINES = 'JSON Lines such as {"picture": "a.jpg", "faithful": "...", "hallucinated": "..."}'
_SHARE = 3  # one in so many objects is replaced

Counts = Mapping[str, Mapping[str, int]]


def read_pairs(path: Path, images: Path, limit: int | None = None) -> PairSet:
    """Read pairs from JSON Lines; a line may have its own prompt.

    Args:
        path: The file.
        images: Base folder of picture names.
        limit: Number of pairs to keep, from the first.

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


def make_pairs(
    pictures: PictureSet,
    source: str,
    seed: int,
    limit: int | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> PairSet:
    """Make a pair for each suitable picture, the same for the same pictures and seed.

    Args:
        pictures: Pictures with known objects.
        source: Name of the picture set.
        seed: Seed of the replacements.
        limit: Number of pairs to make.
        captions: Human captions by picture; None: a sentence names the objects.

    Raises:
        DataError: No picture is suitable, or the captions are of other pictures.
    """
    if captions is not None and not any(picture.id in captions for picture in pictures.pictures):
        raise DataError(
            f"{source}: the captions are of other pictures, such as {next(iter(captions), None)!r}, and none is of "
            f"{pictures.pictures[0].id!r} or another one here; give the captions of these pictures"
        )
    counts, vocabulary = (
        _cooccurrences(pictures.pictures),
        own_vocabulary("", pictures.categories, tuple(pictures.words.items())),
    )

    def made(picture: Picture) -> Pair | None:
        rng = random.Random(f"pairs/{seed}/{picture.id}")
        if captions is None:
            return _sentence_pair(picture, _absent(picture.objects, pictures.categories), counts, rng)
        picture_captions = captions.get(picture.id, ())
        mentioned = [mention.name for caption in picture_captions for mention in vocabulary.mentions(caption)]
        absent = _absent([*picture.objects, *mentioned], pictures.categories)
        return _caption_pair(picture, picture_captions, vocabulary, absent, counts, rng)

    pairs = tuple(islice((pair for pair in map(made, pictures.pictures) if pair is not None), limit))
    if not pairs:
        raise DataError(
            f"{source}: no picture has an object that another category of the data could stand for; give more pictures"
        )
    return PairSet(pairs, source, pictures.remarks)


def _cooccurrences(pictures: Sequence[Picture]) -> Counts:
    """Count the pictures in which each two categories appear together."""
    counts: dict[str, Counter[str]] = {}
    for picture in pictures:
        for name in picture.objects:
            counts.setdefault(name, Counter()).update(other for other in picture.objects if other != name)
    return counts


def _absent(shown: Sequence[str], categories: Sequence[str]) -> list[str]:
    """List the categories that a picture shows under no name."""
    phrases = {_phrase(name) for name in shown}
    return [name for name in categories if name not in shown and _phrase(name) not in phrases]


def _draw_category(names_left: Sequence[str], rest: Sequence[str], counts: Counts, rng: random.Random) -> str:
    """Draw a category by how often it appears with others; uniformly if it never does."""
    weights = [sum(counts.get(name, {}).get(other, 0) for other in rest) for name in names_left]
    return rng.choices(names_left, weights if any(weights) else None)[0]


def _caption_pair(
    picture: Picture,
    captions: Sequence[str],
    vocabulary: Vocabulary,
    absent: Sequence[str],
    counts: Counts,
    rng: random.Random,
) -> Pair | None:
    """Make the pair of a picture from a human caption; None: no caption is suitable."""

    def draw(left: Sequence[str], gone: str) -> str:
        return _draw_category(left, [name for name in picture.objects if name != gone], counts, rng)

    for caption in map(end_with_stop, captions):
        hallucinated = swap_object(caption, vocabulary, absent, draw, rng)
        if hallucinated is not None:
            return Pair(picture.id, picture.path, PROMPT, caption, hallucinated)
    return None


def _sentence_pair(picture: Picture, absent: Sequence[str], counts: Counts, rng: random.Random) -> Pair | None:
    """Make the pair of a picture from a sentence that names its objects; None: no object can be replaced."""
    choices = {
        at: [name for name in absent if _length(name) == _length(shown)] for at, shown in enumerate(picture.objects)
    }
    open_places = [at for at, names_there in choices.items() if names_there]
    if not open_places:
        return None
    chosen = sorted(rng.sample(open_places, min(len(open_places), max(1, len(picture.objects) // _SHARE))))
    rest = [name for at, name in enumerate(picture.objects) if at not in chosen]
    hallucinated = list(picture.objects)
    for at in chosen:
        left = [name for name in choices[at] if _phrase(name) not in map(_phrase, hallucinated)]
        if left:
            hallucinated[at] = _draw_category(left, rest, counts, rng)
    return Pair(picture.id, picture.path, PROMPT, _sentence(picture.objects), _sentence(hallucinated))


def _sentence(objects: Sequence[str]) -> str:
    """Write a sentence that names objects.

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
