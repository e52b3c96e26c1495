"""Wording of objects: articles, plural-only names, and the question whether an object is in a picture."""

from __future__ import annotations

import re

_VOWEL_SOUND = re.compile("hour|honest|honou?r|heir")
_CONSONANT_SOUND = re.compile(
    "eu|ewe|once|one|ufo|ukulele|unicorn|unicycle|uniform|unit|universit|urinal|usb|used|utensil|utility"
)
_PLURAL = re.compile(
    "(.* )?(binoculars|earphones|glasses|goggles|headphones|jeans|leggings|pajamas|pants|pliers|scissors|shears|shorts|"
    "skis|stairs|sunglasses|tights|tongs|trousers)"
)


def is_plural(name: str) -> bool:
    """Tell whether a name is plural only, such as skis or scissors."""
    return _PLURAL.fullmatch(name.lower()) is not None


def with_article(name: str, wording: str = "official") -> str:
    """Put a or an before a name, by its first letter; in wording "proper" by its first sound.

    >>> with_article("apple"), with_article("unicycle"), with_article("unicycle", "proper")
    ('an apple', 'an unicycle', 'a unicycle')
    """
    first = name.lower()
    vowel = first.startswith(tuple("aeiou"))
    if wording == "proper":
        vowel = bool(_VOWEL_SOUND.match(first)) or (vowel and not _CONSONANT_SOUND.match(first))
    return f"{'an' if vowel else 'a'} {name}"


def question_about(name: str, wording: str = "official") -> str:
    """Write the question about an object.

    >>> question_about("apple"), question_about("skis"), question_about("skis", "proper")
    ('Is there an apple in the image?', 'Is there a skis in the image?', 'Are there any skis in the image?')
    """
    name = " ".join(name.replace("_", " ").split())
    if wording == "proper" and is_plural(name):
        return f"Are there any {name} in the image?"
    return f"Is there {with_article(name, wording)} in the image?"
