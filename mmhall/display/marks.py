"""Objects that a text names, and whether they are in the picture.

A denied object is not named: "no dog" names no object, "no dog near the car" names the car. The truth is known of the
objects that somebody says are in the picture, or are not. Where the list of present objects is complete, every other
object of the vocabulary is absent; of an object outside it ("helicopter"), nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from mmhall.objects.coco_words import SYNONYMS
from mmhall.objects.vocabulary import Mention, mentions, object_vocabulary

_CLAUSE = re.compile(r"[.;:,!?\n]|\b(?:but|and there)\b", re.IGNORECASE)
_DENIED = re.compile(
    r"\b(?:no(?! doubt\b)|not(?! only\b)|cannot|none|without|neither|nor|never|\w+n[’']t)\b"
    r"(?!.*\b(?:on|in|at|near|beside|next|behind|under|above|over|with|by|from|to|that|which|who|where|while)\b)",
    re.IGNORECASE,
)
_EXISTENCE = re.compile(
    r"\s*(?:is|are) there (?:(?:an?|any|some|one|the) )?(?P<object>[^?.!,]+?)"
    r"(?: (?:visible|shown|present|anywhere|here))*"
    r"(?: (?:in|on) (?:the|this) (?:given |provided )?(?:image|picture|photo|photograph|scene|drawing))?\s*\?",
    re.IGNORECASE,
)
_CLOSED = re.compile(
    r"\s*(?:am|are|can|could|did|do|does|had|has|have|is|should|was|were|will|would)\b[^?]*\?", re.IGNORECASE
)
_OR = re.compile(r"\bor\b", re.IGNORECASE)
_FIRST_WORD = re.compile(r"\W*([A-Za-z]+)")
_YES_NO = {"yes": "yes", "yeah": "yes", "yep": "yes", "no": "no", "nope": "no"}


def named_objects(text: str, present: Collection[str] = ()) -> list[str]:
    """Return the objects that a text names, each once, in order: COCO categories and objects known to be present."""
    return list(dict.fromkeys(mention.name for mention in find_mentions(text, present)))


def find_mentions(text: str, present: Collection[str] = ()) -> list[Mention]:
    """Find the objects that a text names without denying them: COCO categories and objects known to be present."""
    found = object_vocabulary((*SYNONYMS, *sorted(set(present) - set(SYNONYMS)))).mentions(text)
    return [mention for mention in found if not _DENIED.search(_CLAUSE.split(text[: mention.start])[-1])]


def canonical_name(name: str) -> str:
    """Return the COCO category that a name is a synonym of, else the name itself, in lower case.

    >>> canonical_name("Sofa"), canonical_name("helicopter")
    ('couch', 'helicopter')
    """
    name = " ".join(name.casefold().split())
    matches = [mention.name for mention in mentions(name) if (mention.start, mention.end) == (0, len(name))]
    return matches[0] if matches else name


def is_present(name: str, present: Collection[str] | None, absent: Collection[str] | None = None) -> bool | None:
    """Return whether an object is in the picture; None: not known.

    Args:
        name: The object, by name or synonym.
        present: Objects in the picture; None: not known.
        absent: Objects that are not in it; None: all others of the vocabulary, if `present` is known.
    """
    name = canonical_name(name)
    if name in map(canonical_name, present or ()):
        return True
    if absent is None:
        return False if present is not None and name in SYNONYMS else None
    return False if name in map(canonical_name, absent) else None


def judge_object(name: str, present: Collection[str] | None, absent: Collection[str] | None = None) -> str:
    """Return "supported", "hallucinated" or "unknown"; arguments as in `is_present`."""
    return {True: "supported", False: "hallucinated", None: "unknown"}[is_present(name, present, absent)]


def asked_object(prompt: str) -> str | None:
    """Return the object whose presence in the picture a prompt asks about; None if it asks about none.

    A part of the picture belongs to the object: whether a dog is in it does not answer "Is there a dog on the sofa?".

    >>> asked_object("Is there a wine glass in the image? Answer yes or no."), asked_object("Is the dog asleep?")
    ('wine glass', None)
    """
    found = _EXISTENCE.match(prompt)
    if found is None or _OR.search(found["object"]):
        return None
    return canonical_name(found["object"])


def is_closed(prompt: str) -> bool:
    """Return whether a prompt is a question to answer by yes or no.

    >>> is_closed("Is the dog asleep?"), is_closed("Is it red or blue?"), is_closed("What is this?")
    (True, False, False)
    """
    found = _CLOSED.match(prompt)
    return found is not None and _OR.search(found[0]) is None


def says_yes_or_no(text: str) -> str:
    """Return "yes" or "no" if an answer begins with it, else "".

    >>> says_yes_or_no("Yes, a dog."), says_yes_or_no("There is no dog.")
    ('yes', '')
    """
    found = _FIRST_WORD.match(text)
    return "" if found is None else _YES_NO.get(found[1].lower(), "")
