"""Names of categories in detection data sets: which names mean one category, and the words for each.

Case, underscores and hyphens are ignored, as are parentheses ("mouse_(computer_equipment)") and the suffixes of
COCO's stuff ("-merged", "-other", "-stuff"). "Cabinet/shelf" and "couch, sofa" are names of one category each; "Dogs"
and "dog" are one, and so are "Person" and COCO's "person", "diningtable" and "dining table", "aeroplane" and
"airplane". In data with "person", "Man", "Woman", "Boy" and "Girl" are persons, too: otherwise a picture of a woman
would show no person. Objects365's "Other Shoes" is not named "shoes": "Sneakers", a category of its own, are
shoes, too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from mmhall.benchmarks.data.coco_words import PEOPLE, SPELLINGS, SYNONYMS
from mmhall.plurals import plural, singulars


def names(category: str) -> tuple[str, ...]:
    """Split a category's name into the names that it lists, in lower case.

    >>> names("Cabinet/shelf"), names("mouse_(computer_equipment)"), names("Cutting/chopping Board")
    (('cabinet', 'shelf'), ('mouse',), ('cutting board', 'chopping board'))
    """
    category = unicodedata.normalize("NFC", category)
    plain = re.sub(r"\([^()]*\)", " ", category.lower().replace("_", " "))
    plain = re.sub(r"(-(other|merged|stuff))+\s*$", "", plain)
    parts = [" ".join(part.split()) for part in re.split(r"[/,;|]", plain)]
    parts = [part for part in parts if part] or [" ".join(category.lower().split())]
    head = parts[-1].rpartition(" ")[2]
    shared = [f"{part} {head}" if " " in parts[-1] and re.fullmatch(r"\S+ing", part) else part for part in parts[:-1]]
    return tuple(dict.fromkeys([*shared, parts[-1]]))


def coco_name(name: str) -> str | None:
    """Return the COCO category of a name in any spelling; None: it is no COCO category.

    >>> coco_name("Dining_Tables"), coco_name("diningtable"), coco_name("sofa"), coco_name("desk")
    ('dining table', 'dining table', 'couch', None)
    """
    return _COCO.get(_letters(name))


def forms(category: str) -> list[str]:
    """Return every spelling of a category's names in texts; `vocabulary` adds their plurals.

    >>> forms("Street Lights"), forms("T-shirt/top")
    (['street lights', 'street light'], ['t-shirt', 't shirt', 'top'])
    """
    spelt = [form for name in names(category) for form in (name, name.replace("-", " "))]
    return list(dict.fromkeys(form for name in spelt for form in (name, *singulars(name))))


def unify_categories(categories: Iterable[str]) -> dict[str, str]:
    """Map equal categories to one name: COCO's, else the first in alphabetical order.

    >>> unify_categories(["Dog", "dogs", "Cabinet/shelf", "fox", "Foxes", "Fox"])
    {'Cabinet/shelf': 'Cabinet/shelf', 'Dog': 'dog', 'Fox': 'Fox', 'Foxes': 'Fox', 'dogs': 'dog', 'fox': 'Fox'}
    """
    listed = sorted(set(categories))
    keys = {category: tuple(name.replace("-", " ") for name in names(category)) for category in listed}
    plurals = {tuple(map(plural, key)): key for key in keys.values()}
    first: dict[tuple[str, ...], str] = {}
    unified = {}
    for category in listed:
        key_names = keys[category]
        key = plurals.get(key_names, key_names)
        coco = coco_name(key_names[0]) if len(key_names) == 1 else None
        unified[category] = coco or first.setdefault(key, category)
    if "person" in unified.values():
        kinds = (category for category in listed if {*keys[category], *singulars(keys[category][0])} & PEOPLE)
        unified |= dict.fromkeys(kinds, "person")
    return unified


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


_COCO = {
    _letters(form): name
    for name in SYNONYMS
    for word in (name, *SPELLINGS.get(name, "").split(", "))
    for form in (word, plural(word))
    if word
}
