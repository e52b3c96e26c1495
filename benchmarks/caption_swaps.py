"""Swap one object of a caption that a person wrote for another: the word changes, its number and article with it."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from mmhall.benchmarks.categories import names
from mmhall.benchmarks.plurals import plural, singulars
from mmhall.benchmarks.pope_wording import is_plural, with_article
from mmhall.benchmarks.vocabulary import Mention, Vocabulary

_ARTICLE = re.compile(r"\b([Aa]n?) $")


def ended(caption: str) -> str:
    """Return a caption with a full stop at its end, whatever was there.

    >>> ended(" A dog on a bench ."), ended("Two cats!")
    ('A dog on a bench.', 'Two cats.')
    """
    return f"{caption.strip().rstrip('.!? ')}."


def swapped(
    caption: str,
    vocabulary: Vocabulary,
    absent: Sequence[str],
    draw: Callable[[Sequence[str], str], str],
    rng: random.Random,
) -> str | None:
    """Return a caption in which one object is another one; None: there is none that could be.

    Only an object that is named once is taken; the other is one that the caption does not name, of as many words.

    Args:
        caption: As a person wrote it.
        vocabulary: Finds objects.
        absent: Categories that the picture does not show.
        draw: Chooses among categories, given the one that goes.
        rng: Chooses the object.
    """
    found = vocabulary.mentions(caption)
    named = Counter(mention.name for mention in found)
    for mention in rng.sample(found, len(found)):
        old = caption[mention.start : mention.end]
        words = {name: _written(name, old) for name in absent if name not in named}
        fitting = [name for name, word in words.items() if word is not None]
        if named[mention.name] == 1 and fitting:
            return _put(caption, mention, words[draw(fitting, mention.name)] or "")
    return None


def _written(name: str, old: str) -> str | None:
    """Write a category in the number of the word that it replaces; None: it cannot be, or has more or fewer parts."""
    word, many = names(name)[0], bool(singulars(old.lower())) or is_plural(old)
    if is_plural(word) and not many:
        return None
    written = plural(word) if many and not is_plural(word) else word
    return written if len(written.split()) == len(old.split()) else None


def _put(caption: str, mention: Mention, word: str) -> str:
    """Put a word in a mention's place, in its case, and make the article fit."""
    before, old, behind = caption[: mention.start], caption[mention.start : mention.end], caption[mention.end :]
    article = _ARTICLE.search(before)
    if article is not None:
        fitting = with_article(word, "proper").split()[0]
        before = before[: article.start()] + (fitting.capitalize() if article[1][0] == "A" else fitting) + " "
    return before + (word[0].upper() + word[1:] if old[0].isupper() else word) + behind
