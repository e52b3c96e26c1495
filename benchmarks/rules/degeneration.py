"""Signs of a degenerated text: a small vocabulary, repetitions, captions that are all alike.

Words      Lower-cased, without punctuation (`length.WORD`).
distinct-n Li et al., NAACL 2016, arXiv:1510.03055: different n-grams over n-grams, of one caption.
self-BLEU  Zhu et al., SIGIR 2018, arXiv:1802.01886: the mean BLEU of each caption against all others; high where
           captions are alike.
BLEU       Papineni et al., ACL 2002: geometric mean of the modified precisions of 1- to 4-grams, times the brevity
           penalty with the closest reference length. Precisions of 2-grams and longer are smoothed, (matches + 1) /
           (n-grams + 1) (Lin and Och, COLING 2004); without a common word it is 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from mmhall.benchmarks.rules.length import WORD

_LONGEST = 4  # words of an n-gram
_OFTEN = 3  # times


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return WORD.findall(text.lower())


def distinct(words: Sequence[str], n: int) -> float:
    """Return the share of n-grams that are different; NaN for a text with fewer than n words.

    >>> words = "a dog and a dog and a cat".split()
    >>> distinct(words, 1), round(distinct(words, 2), 4)
    (0.5, 0.5714)
    """
    grams = _ngrams(words, n)
    return len(grams) / grams.total() if grams else math.nan


def repeats_itself(words: Sequence[str]) -> bool:
    """Tell whether a text has a sequence of four words three times or more.

    >>> repeats_itself(("there is a dog " * 3).split()), repeats_itself(("there is a dog " * 2).split())
    (True, False)
    """
    return max(_ngrams(words, _LONGEST).values(), default=0) >= _OFTEN


def bleu(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return BLEU-4 of a text against several references.

    >>> round(bleu("a dog runs in the park".split(), ["a dog sits in the park".split()]), 4)
    0.4855
    """
    pool = _Pool([words, *references])
    return pool.bleu(0)


def self_bleu(captions: Sequence[Sequence[str]]) -> float:
    """Return the mean BLEU-4 of each caption against all others; NaN for fewer than two captions.

    Args:
        captions: Words of each caption.

    >>> captions = [text.split() for text in ("a dog runs in the park", "a dog sits in the park", "two cats sleep")]
    >>> round(self_bleu(captions), 4)
    0.3237
    """
    pool = _Pool(captions)
    return sum(map(pool.bleu, range(len(captions)))) / len(captions) if len(captions) > 1 else math.nan


class _Pool:
    """Texts that are compared with each other."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        """Count the n-grams of each text, and find those with the largest and second largest count of each."""
        self._texts = [[_ngrams(words, n) for n in range(1, _LONGEST + 1)] for words in texts]
        self._most: dict[tuple[str, ...], tuple[int, int, int]] = {}  # n-gram: text, its count, next largest count
        for at, counted in enumerate(self._texts):
            for gram, times in (pair for grams in counted for pair in grams.items()):
                text, most, second = self._most.get(gram, (at, 0, 0))
                self._most[gram] = (at, times, most) if times > most else (text, most, max(second, times))

    def bleu(self, at: int) -> float:
        """Return BLEU-4 of a text against all others."""
        logs = 0.0
        for n, grams in enumerate(self._texts[at]):
            matched = sum(min(times, self._most_elsewhere(gram, at)) for gram, times in grams.items())
            if n == 0 and not matched:
                return 0.0
            smooth = int(n > 0)
            logs += math.log((matched + smooth) / (grams.total() + smooth)) / _LONGEST
        length, *lengths = (self._texts[text][0].total() for text in (at, *range(at), *range(at + 1, len(self._texts))))
        closest = min(lengths, key=lambda other: (abs(other - length), other))
        return math.exp(logs + min(0.0, 1 - closest / length))

    def _most_elsewhere(self, gram: tuple[str, ...], at: int) -> int:
        text, most, second = self._most[gram]
        return second if text == at else most


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))
