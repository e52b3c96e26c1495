"""The word rules that published CHAIR figures were made with, for word lists that the user supplies.

Paper    Rohrbach et al., EMNLP 2018, arXiv:1809.02156; LisaAnne/Hallucination (BSD-2), whose `synonyms.txt`
         is the vocabulary: a line for each object, its name first, then its synonyms.
Rule     "original": every token is made singular, whatever its part of speech (the `pattern` package).
         "wordnet": every token becomes its WordNet lemma, as in the evaluators that came later; without a
         part-of-speech tagger: the noun's lemma, and where that changes nothing, the verb's if it is in the vocabulary.
         Both then merge two-word names, left to right, and look the tokens up.
Lemmas   A JSON table. "original": word to singular. "wordnet": word to its lemmas as noun, verb, adjective and
         adverb. A word that is not in it stays as it is.
Differs  Sentences end at white space after a stop, without the trained splitter. Without the tagger "wordnet" is
         near the published evaluator (which finds other objects in three captions of a hundred), not equal to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mmhall.benchmarks.vocabulary import Mention
from mmhall.errors import DataError

RULES = ("original", "wordnet")
_YOUNG = "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, animal, cub"
_KEPT = (
    "motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant, "
    "stop sign, parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, "
    "hot dog, cell phone, mobile phone, teddy bear, hair drier, potted plant, laptop computer, stove top oven, "
    "home plate, train track"
)
MERGED: Mapping[str, str] = {
    **{phrase: phrase for phrase in _KEPT.split(", ")},
    **{f"{age} {animal}": animal for animal in _YOUNG.split(", ") for age in ("baby", "adult")},
    "bow tie": "tie",
    "passenger jet": "jet",
    "passenger train": "train",
    "toilet seat": "toilet",
    "wine glas": "wine glass",
}
_MARKS = r"[;@#$%&?!*()\[\]{}<>\"«»“”„‘’]|\.\.+|--|`+|''|[:,](?!\d)"
_TOKEN = re.compile(rf"(?P<mark>{_MARKS})|(?P<word>(?:(?!{_MARKS})\S)+)")
_STOP = re.compile(r"[.?!][\"'”’)\]}>»]*(?=\s+(?P<next>\S))")
_ABBREVIATED = re.compile(r"(?:mr|mrs|ms|dr|st|vs|jr|sr|prof|inc|co|corp|u\.s|a\.m|p\.m|[b-hj-z])$")
_FINAL = re.compile(r"(?<=[^.])\.(?=[\])}>\"'»”’\s]*$)")
_CLITIC = re.compile(r"(?<=[^'])(?:'(?:s|m|d|ll|re|ve)?|n't)$")
_OPENING = re.compile(r"'(?!re|ve|ll|m|t|s|d|n)(?=\w)")
_SPLIT = {
    "cannot": 3,
    "gonna": 3,
    "gotta": 3,
    "wanna": 3,
    "gimme": 3,
    "lemme": 3,
    "'tis": 2,
    "'twas": 2,
}


class Token(NamedTuple):
    """A token: its text, and the characters from `start` to before `end` it was made of."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What a caption says.

    Attributes:
        mentions: Objects named, in order.
        tokens: How many tokens there are, punctuation and merged names counted as one each: the original's length.
    """

    mentions: tuple[Mention, ...]
    tokens: int


@dataclass(frozen=True)
class WordRule:
    """A rule with its tables.

    Attributes:
        name: "original" or "wordnet".
        nodes: Word to the object it names.
        lemmas: Word to its singular ("original"), or to its lemmas as noun, verb, adjective, adverb ("wordnet").
    """

    name: str
    nodes: Mapping[str, str]
    lemmas: Mapping[str, Any]

    def read(self, text: str) -> Reading:
        """Find every object a caption names."""
        merged = merge([Token(self.normal(t.text), t.start, t.end) for t in tokens(text)])
        words = {token.text for token in merged}
        dropped = {"seat"} if {"toilet", "seat"} <= words else set[str]()
        named = [t for t in merged if t.text in self.nodes and t.text not in dropped]
        return Reading(tuple(Mention(self.nodes[t.text], t.start, t.end) for t in named), len(merged))

    def normal(self, word: str) -> str:
        """Return the form of a word that is looked up."""
        if self.name == "original":
            return str(self.lemmas.get(word, word))
        noun, verb = self.lemmas.get(word, (word, word))[:2]
        return str(verb if noun == word and verb in self.nodes else noun)


def tokens(text: str) -> list[Token]:
    """Split a text into tokens in lower case, as the Penn Treebank does.

    >>> [token.text for token in tokens("The dog's ball isn't red, is it?")]
    ['the', 'dog', "'s", 'ball', 'is', "n't", 'red', ',', 'is', 'it', '?']
    """
    lower = "".join(letter if len(letter.lower()) != 1 else letter.lower() for letter in text)
    found: list[Token] = []
    for start, end in _sentences(lower):
        final = _FINAL.search(lower[start:end])
        cuts = [start, *((start + final.start(), start + final.end()) if final else ()), end]
        for first, last in pairwise(cuts):
            found += _split(lower[:last], first)
    return found


def merge(tokens: list[Token]) -> list[Token]:
    """Join two-word names, left to right."""
    merged: list[Token] = []
    at = 0
    while at < len(tokens):
        pair = " ".join(token.text for token in tokens[at : at + 2])
        if at + 1 < len(tokens) and pair in MERGED:
            merged.append(Token(MERGED[pair], tokens[at].start, tokens[at + 1].end))
            at += 2
        else:
            merged.append(tokens[at])
            at += 1
    return merged


@lru_cache(maxsize=8)
def word_rule(name: str, vocabulary: str, lemmas: str) -> WordRule:
    """Read a rule's tables.

    Args:
        name: "original" or "wordnet".
        vocabulary: Path of `synonyms.txt`.
        lemmas: Path of the table of lemmas.

    Raises:
        DataError: A file is missing or malformed.
    """
    return WordRule(name, _nodes(Path(vocabulary)), _lemmas(Path(lemmas), name))


def text_of(path: Path, what: str) -> str:
    """Return a file's text.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; give {what}") from error
    except ValueError as error:
        raise DataError(f"{path}: is no UTF-8 text; give {what}") from error


def _nodes(path: Path) -> dict[str, str]:
    what = 'a vocabulary with lines such as "person, girl, boy"'
    lines = [line.strip().split(", ") for line in text_of(path, what).splitlines() if line.strip()]
    nodes = {word: words[0] for words in lines for word in words}  # a word with a space before it never matches
    if not any(len(words) > 1 for words in lines):
        raise DataError(f"{path}: no line names an object and a synonym; give {what}")
    return nodes


def _lemmas(path: Path, name: str) -> dict[str, Any]:
    each = '"men": "man"' if name == "original" else '"children": ["child", "children", "children", "children"]'
    what = f"a JSON table such as {{{each}}}"
    try:
        table = json.loads(text_of(path, what))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error}); give {what}") from error
    if not isinstance(table, dict) or not table:
        raise DataError(f"{path}: is no table of words; give {what}")
    for word, lemma in table.items():
        listed = isinstance(lemma, list) and len(lemma) == 4 and all(isinstance(form, str) for form in lemma)
        if not (isinstance(lemma, str) if name == "original" else listed):
            raise DataError(f"{path}: {word!r} has {lemma!r}; rule {name!r} needs {what}")
    return table


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each sentence begins and ends."""
    start = 0
    for match in _STOP.finditer(text):
        if match.group().startswith(".") and _goes_on(text[start : match.start()], match["next"]):
            continue
        yield start, match.end()
        start = match.end()
    yield start, len(text)


def _goes_on(before: str, following: str) -> bool:
    """Tell whether a dot behind a text does not end its sentence."""
    word = before if not before or before[-1].isspace() else before.split()[-1].lstrip("\"'“‘([{<")
    numbered = word.isdigit() and following.isalpha()
    return numbered or word.endswith(".") or bool(_ABBREVIATED.match(word))


def _split(text: str, start: int) -> Iterator[Token]:
    """Yield the tokens of a stretch from `start` to the end of a text, inner dots kept."""
    for match in _TOKEN.finditer(text, start):
        if match["mark"]:
            yield Token(match.group(), match.start(), match.end())
        else:
            yield from _parts(match.group(), match.start())


def _parts(word: str, start: int) -> Iterator[Token]:
    """Yield a word's parts: an opening apostrophe, the word, its clitic."""
    if opening := _OPENING.match(word):
        yield Token("'", start, start + 1)
        word, start = word[opening.end() :], start + opening.end()
    clitic = _CLITIC.search(word)
    if clitic is not None and clitic.start():
        cuts = [0, clitic.start(), len(word)]
    else:
        cuts = [0, _SPLIT[word], len(word)] if word in _SPLIT else [0, len(word)]
    for first, last in pairwise(cuts):
        yield Token(word[first:last], start + first, start + last)
