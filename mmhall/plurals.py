"""Plurals of English nouns, and possible singulars of a plural."""

from __future__ import annotations

import re

_IRREGULAR = {
    "person": "people",
    "goose": "geese",
    "ox": "oxen",
    "mouse": "mice",
    "knife": "knives",
    "calf": "calves",
    "thief": "thieves",
    "wolf": "wolves",
    "leaf": "leaves",
    "shelf": "shelves",
    "scarf": "scarves",
    "loaf": "loaves",
    "foot": "feet",
    "tooth": "teeth",
    "tomato": "tomatoes",
    "potato": "potatoes",
    "deer": "deer",
    "fish": "fish",
    **{
        word: word
        for word in ("sheep", "bison", "aircraft", "luggage", "cattle", "broccoli", "skis", "scissors", "people")
    },
    **{word: word for word in ("men", "women", "children", "geese", "oxen", "buffaloes")},
}
_ONLY_PLURAL = re.compile(
    "(sun|eye)?glasses|goggles|shorts|pants|trousers|jeans|tights|goods|clothes|news|sports|lens|greens|arms|stairs|"
    "species|series"
)


def plural(word: str) -> str:
    """Return the plural of a noun phrase; its last word changes.

    >>> plural("wine glass"), plural("puppy"), plural("knife"), plural("bus")
    ('wine glasses', 'puppies', 'knives', 'buses')
    """
    head, _, last = word.rpartition(" ")
    if last in _IRREGULAR:
        many = _IRREGULAR[last]
    elif last.endswith(("man", "child")) and last != "human":
        many = last[:-2] + "en" if last.endswith("man") else last + "ren"
    elif re.search(r"[^aeiou]y$", last):
        many = last[:-1] + "ies"
    elif re.search(r"(s|x|z|ch|sh)$", last):
        many = last + "es"
    else:
        many = last + "s"
    return f"{head} {many}".strip()


def singulars(word: str) -> list[str]:
    """Return what a noun phrase may be the plural of; none where it is none, or means another thing.

    >>> singulars("street lights"), singulars("shelves"), singulars("men"), singulars("glasses"), singulars("bus")
    (['street light'], ['shelf'], ['man'], [], [])
    """
    head, _, last = word.rpartition(" ")
    if _ONLY_PLURAL.fullmatch(last):
        return []
    irregular = [one for one, many in _IRREGULAR.items() if many == last != one]
    stems = irregular or [f"{last[:-3]}y", f"{last[:-3]}man", last[:-3], last[:-2], last[:-1]]
    return [f"{head} {one}".strip() for one in stems if len(one) > 2 and plural(one) == last]
