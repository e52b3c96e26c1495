"""The wording of POPE's questions, and the suffixes of published evaluations."""

from __future__ import annotations

import re

SUFFIX = "\nAnswer the question using a single word or phrase."
PROMPTS = {
    "llava": SUFFIX,
    "vcd": " Please answer this question with one word.",
    "opera": "",
    "clearsight": " Please just answer yes or no.",
    "lmms-eval": SUFFIX,
    "vlmevalkit": "",
}
WORDINGS = ("official", "proper")

_ASKED = re.compile(r"(?:Is there an? (?P<one>.+)|Are there any (?P<many>.+)) in the iman?ge\?")
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


def object_of(question: str) -> str | None:
    """Return the object that a question asks for; None for another wording.

    >>> object_of("Is there a dog in the image?"), object_of("Is there an ox in the imange?"), object_of("Why?")
    ('dog', 'ox', None)
    """
    match = _ASKED.fullmatch(question)
    return match and (match["one"] or match["many"])


def in_version(question: str, version: str) -> str:
    """Return a question in a version of its text: "fixed", or "legacy_typo" of early releases.

    The generator of early releases wrote "an" for every letter a of the template.

    >>> in_version("Is there an apple in the image?", "legacy_typo")
    'Is there an apple in the imange?'
    """
    if version == "fixed":
        return re.sub(r" in the imange\?$", " in the image?", question)
    return re.sub(r"^(Is there an .+) in the image\?$", r"\1 in the imange?", question)
