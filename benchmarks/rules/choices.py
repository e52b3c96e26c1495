"""Answers to questions with lettered options.

Rule       An answer, without a model's thoughts (`thoughts`), chooses by a letter that stands alone, begins the answer
           with a mark after it, or follows "Answer:": "B", "(B)", "B. two", "Answer: B". Else it chooses the one option
           whose words it has: "There are two." Words of one option inside those of another count for the longer one.
           A letter that no option has, and words of several options or of none, leave it unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmhall.benchmarks.rules.thoughts import remove_thoughts

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(
    r"^[\W_]*(?:(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|option)(?:\s+is)?\s*:?\s*[\W_]*)?([A-Za-z])(?:[\W_]*$|\s*[.):,\n])",
    re.IGNORECASE,
)


def lettered(options: Sequence[str], between: str = "\n") -> str:
    """Write options with their letters.

    >>> lettered(["one", "two"], " ")
    'A. one B. two'
    """
    return between.join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def parse_choice(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that an answer chooses; None if it chooses none, or several.

    >>> options = ["one", "two", "left", "to the left"]
    >>> [parse_choice(text, options) for text in ("B", "(b) two", "There are two.", "one or two", "It is to the left.")]
    ['B', 'B', 'B', None, 'D']
    """
    text = remove_thoughts(answer).strip()
    found = _LETTER.match(text)
    letters = LETTERS[: len(options)]
    if found is not None:
        letter = found[1].upper()
        return letter if letter in letters else None
    said = [place for place, option in enumerate(options) if _has(text, option)]
    longest = [p for p in said if not any(p != q and _has(options[q], options[p]) for q in said)]
    return letters[longest[0]] if len(longest) == 1 else None


def _has(text: str, words: str) -> bool:
    """Tell whether a text has the words, one after the other, whatever their case."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None
