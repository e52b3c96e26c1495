"""Vocabularies of benchmarks: mmhall's own (`mmhall.objects.vocabulary`), or one from a file or from an item."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmhall.benchmarks.data.reading import read_json
from mmhall.errors import DataError
from mmhall.objects.coco_words import SYNONYMS
from mmhall.objects.vocabulary import Mention, Vocabulary, mentions, synonyms, vocabulary

__all__ = [
    "SUPPRESS",
    "Mention",
    "Vocabulary",
    "item_vocabulary",
    "mentions",
    "own_vocabulary",
    "synonyms",
    "vocabulary",
]

SUPPRESS = "suppress"


@lru_cache(maxsize=8)
def own_vocabulary(
    path: str = "", names: tuple[str, ...] = (), words: tuple[tuple[str, tuple[str, ...]], ...] = ()
) -> Vocabulary:
    """Return mmhall's own vocabulary, or one for other objects.

    Args:
        path: JSON file of object to words, which replace mmhall's words; "": none.
        names: Objects beside those of the file; empty: COCO's eighty.
        words: Further words for some objects, from the data.

    Raises:
        DataError: The file is missing or malformed.
    """
    listed = _read_vocabulary(Path(path)) if path else {}
    suppressed = listed.pop(SUPPRESS, [])
    objects = dict.fromkeys((*(names or SYNONYMS), *listed))
    more = dict(words)
    return vocabulary({name: listed.get(name, [*synonyms(name), *more.get(name, ())]) for name in objects}, suppressed)


def item_vocabulary(truth: Mapping[str, Any], path: str = "") -> Vocabulary:
    """Return the vocabulary of an item: `names` and `words` of its truth, else COCO's eighty.

    Args:
        truth: Truth of an item of `Chair`.
        path: See `own_vocabulary`.
    """
    words = tuple((name, tuple(listed)) for name, listed in truth.get("words", {}).items())
    return own_vocabulary(path, tuple(truth.get("names", ())), words)


def _read_vocabulary(path: Path) -> dict[str, list[str]]:
    expected = f'a JSON vocabulary such as {{"fox": ["vixen", "fox cub"], "{SUPPRESS}": ["fox hole"]}}'
    words = read_json(path, expected)
    if not isinstance(words, dict) or not set(words) - {SUPPRESS}:
        raise DataError(f"{path}: names no objects; expected {expected}")
    for name, listed in words.items():
        if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
            raise DataError(f"{path}: {name!r} has {listed!r}; expected {expected}")
    return words
