"""Length of captions: words and sentences, and shorter versions of a text."""

from __future__ import annotations

import re

WORDS = (20, 30, 40, 60, 80)
"""Numbers of first words that captions are cut to."""

WORD = re.compile(r"[\w'-]+")
_END = re.compile(r"(?<!^\d)(?<!^\d\d)(?<!\n\d)(?<!\n\d\d)[.!?]+[\"'”’)\]*]*(?=\s|$)")  # "1." of a list ends nothing


def cut(text: str, words: int) -> str:
    """Return the first words of a text, with the punctuation after them.

    >>> cut("A dog, a cat. The end.", 4)
    'A dog, a cat.'
    """
    words_found = WORD.finditer(text)
    for _ in range(words):
        next(words_found, None)
    next_word = next(words_found, None)
    return text if next_word is None else text[: next_word.start()].rstrip()


def finished_part(text: str) -> str:
    """Return a text up to the end of its last finished sentence; "" without one.

    >>> finished_part('It is "a dog." There is a c')
    'It is "a dog."'
    """
    return drop_sentences(text, 0) if _END.search(text) else ""


def drop_sentences(text: str, count: int) -> str:
    """Return a text without its last sentences; one that the length limit cut off is dropped, and not counted.

    The first sentence stays.

    >>> drop_sentences("A dog. A cat! It sl", 1), drop_sentences("A dog. A cat!", 2), drop_sentences("A dog", 1)
    ('A dog.', 'A dog.', 'A dog')
    """
    ends = sentence_ends(text)
    return text[: ends[max(0, len(ends) - 1 - count)]] if ends else text


def sentence_ends(text: str) -> list[int]:
    """Return the index after each finished sentence of a text.

    >>> sentence_ends("A dog. A cat! It sl")
    [6, 13]
    """
    return [match.end() for match in _END.finditer(text)]


def count_words(text: str) -> int:
    """Count words without punctuation."""
    return len(WORD.findall(text))


def count_sentences(text: str) -> int:
    """Count the ends of sentences: marks with white space or nothing behind them.

    >>> count_sentences("A dog. It is 3.5 years old! A c")
    2
    """
    return len(re.findall(r"[.!?](?:\s|$)", text))
