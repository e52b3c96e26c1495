"""The wording of POPE's questions, and the suffixes of published evaluations."""

from __future__ import annotations

import re

from mmhall.objects.wording import is_plural, question_about, with_article

__all__ = [
    "PROMPTS",
    "SUFFIX",
    "WORDINGS",
    "in_version",
    "is_plural",
    "object_of",
    "question_about",
    "with_article",
]

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
