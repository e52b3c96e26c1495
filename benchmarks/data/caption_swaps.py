"""Replacement of one object in a human caption by another, with the right number and article."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from mmhall.benchmarks.data.categories import names
from mmhall.benchmarks.data.pope_wording import is_plural, with_article
from mmhall.benchmarks.data.vocabulary import Mention, Vocabulary
from mmhall.plurals import plural, singulars

_ARTICLE = re.compile(r"\b(an?) $", re.IGNORECASE)
_ACRONYM = 3  # letters of the longest one: TV, DVD


def end_with_stop(caption: str) -> str:
    """Return a caption with a full stop as its end mark.

    >>> end_with_stop(" A dog on a bench ."), end_with_stop("Two cats!")
    ('A dog on a bench.', 'Two cats.')
    """
    return f"{caption.strip().rstrip('.!? ')}."


def swap_object(
    caption: str,
    vocabulary: Vocabulary,
    absent: Sequence[str],
    draw: Callable[[Sequence[str], str], str],
    rng: random.Random,
) -> str | None:
    """Replace one object of a caption by another; None: no object can be replaced.

    The object must be named once, by a word whose number is clear; its replacement is an object that the caption does
    not name, of as many words.

    Args:
        caption: The human caption.
        vocabulary: Vocabulary that finds objects.
        absent: Categories that the picture does not show.
        draw: Chooses among categories, given the replaced category.
        rng: Chooses the object to replace.
    """
    mentions = vocabulary.mentions(caption)
    named = Counter(mention.name for mention in mentions)
    for mention in rng.sample(mentions, len(mentions)):
        old = caption[mention.start : mention.end]
        many = _is_plural_mention(old, caption[: mention.start])
        words = {name: _inflect(name, old, many) for name in absent if name not in named and many is not None}
        fitting = [name for name, word in words.items() if word is not None]
        if named[mention.name] == 1 and fitting:
            return _replace_mention(caption, mention, words[draw(fitting, mention.name)] or "")
    return None


def _is_plural_mention(word: str, before: str) -> bool | None:
    """Tell whether a word is plural; None: unclear, as for "sheep" without an article right before it."""
    if singulars(word.lower()) or is_plural(word):
        return True
    return None if plural(word.lower()) == word.lower() and not _ARTICLE.search(before) else False


def _inflect(name: str, old: str, many: bool | None) -> str | None:
    """Write a category in the number of the replaced word; None: impossible, or of another number of words."""
    word = names(name)[0]
    if is_plural(word) and not many:
        return None
    written = plural(word) if many and not is_plural(word) else word
    return written if len(written.split()) == len(old.split()) else None


def _replace_mention(caption: str, mention: Mention, word: str) -> str:
    """Replace a mention by a word, in the same case and with the right article."""
    before, old, after = caption[: mention.start], caption[mention.start : mention.end], caption[mention.end :]
    loud = old.isupper() and (caption.isupper() or len(old) > _ACRONYM)
    article = _ARTICLE.search(before)
    if article is not None:
        fitting = with_article(word, "proper").split()[0]
        fitting = fitting.capitalize() if article[1][0] == "A" else fitting
        before = f"{before[: article.start()]}{fitting.upper() if loud and article[1].isupper() else fitting} "
    word = word[0].upper() + word[1:] if old[0].isupper() else word
    return before + (word.upper() if loud else word) + after
