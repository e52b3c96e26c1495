"""Tokenization of captions as in CHAIR's scripts: first sentences, then the Treebank's word rules.

Rules    nltk's `word_tokenize` on lower-case English. Hyphens, slashes and inner dots never split a word; commas and
         colons do unless a digit follows; clitics ('s, n't), brackets and quotes are separate words.
Differs  The sentence splitter is not trained: a sentence ends where white space follows . ? or ! and closing marks,
         except after a common abbreviation, a number with a dot before a letter, and dots in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ABBREVIATION = re.compile(
    r"[b-hj-z]|mr|mrs|ms|dr|prof|rev|sr|jr|st|vs|gen|col|sgt|lt|capt|gov|sen|rep|inc|ltd|corp|bros|ave|blvd|rd|"
    r"jan|feb|aug|sept|oct|nov|dec|vol|u\.s|u\.k|u\.n|a\.m|p\.m|e\.g|i\.e|d\.c|l\.a|n\.y|ph\.d"
)
_OPENING, _CLOSING = "\"'“‘([{<", "\"'”’»)]}>"
_JOINED = (("can", "not"), ("d", "'ye"), ("gim", "me"), ("gon", "na"), ("got", "ta"), ("lem", "me"), ("more", "'n"))
# Applied in this order to one sentence; each pattern sees the blanks of the patterns before it.
_SPLITS = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        (r"[«“‘„]|`+", r" \g<0> "),
        (r'^"|``', " `` "),
        (r"(?<=[ (\[{<])(\"|'')", " `` "),
        (r"(')(?!re|ve|ll|[mtsdn])(\w)\b", r"\1 \2"),  # before one letter only: "'dog'" stays whole in front
        (r"([^.])\.([])}>\"'»”’ ]*)\s*$", r"\1 . \2 "),  # the dot that ends the sentence; inner ones stay
        (r"([:,])(\D)", r" \1 \2"),
        (r"[:,]$", r" \g<0> "),
        (r"\.{2,}", r" \g<0> "),
        (r"[;@#$%&?!]", r" \g<0> "),
        (r"([^'])' ", r"\1 ' "),
        (r"[][(){}<>*]", r" \g<0> "),
        (r"--", r" \g<0> "),
        (r"^|$", " "),
        (r"[»”’]", r" \g<0> "),
        (r"''|\"", " '' "),
        (r"([^' ])('[smd]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
        (r"\b(wan)(na)(?=\s)", r" \1 \2 "),
        *((rf"\b({a})({b})\b", r" \1 \2 ") for a, b in _JOINED),
        (r" ('t)(is)\b", r" \1 \2 "),
        (r" ('t)(was)\b", r" \1 \2 "),
    )
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word or a mark.

    Attributes:
        text: In lower case; double quotes as `` and ''.
        start: Index of its first character in the text.
        end: Index after its last character.
    """

    text: str
    start: int
    end: int


def tokenize(text: str) -> list[Token]:
    """Split a text into words and marks.

    >>> [t.text for t in tokenize("The T.V isn't on. A man's hot-dog, 3,5 m away.")]
    ['the', 't.v', 'is', "n't", 'on', '.', 'a', 'man', "'s", 'hot-dog', ',', '3,5', 'm', 'away', '.']
    """
    lower = "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)
    return [token for start, end in sentences(lower) for token in _words(lower[start:end], start)]


def sentences(text: str) -> list[tuple[int, int]]:
    """Return start and end of each sentence, with closing marks, in characters.

    >>> sentences("Dr. Who. 1. a dog")
    [(0, 8), (9, 17)]
    """
    words = list(re.finditer(r"\S+", text))
    spans: list[tuple[int, int]] = []
    start = 0
    for number, word in enumerate(words):
        rest = words[number + 1].group() if number + 1 < len(words) else ""
        if not rest or _ends(word.group().rstrip(_CLOSING), rest):
            spans.append((words[start].start(), word.end()))
            start = number + 1
    return spans


def _ends(word: str, rest: str) -> bool:
    """Tell whether a word ends a sentence, given the word after it."""
    if not word.endswith("."):
        return word.endswith(("?", "!"))
    word = word[:-1].lstrip(_OPENING).lower()
    if word.endswith(".") or _ABBREVIATION.fullmatch(word):
        return False
    return re.fullmatch(r"[\d.,]*\d", word) is None or not rest[0].isalpha()


def _words(sentence: str, offset: int) -> Iterator[Token]:
    """Split one sentence; `offset` is where it begins."""
    split = sentence
    for pattern, put in _SPLITS:
        split = pattern.sub(put, split)
    at = 0
    for word in split.split():
        at += len(sentence[at:]) - len(sentence[at:].lstrip())
        shown = word if sentence.startswith(word, at) else '"' if sentence[at] == '"' else "''"
        yield Token(word, offset + at, offset + at + len(shown))
        at += len(shown)
