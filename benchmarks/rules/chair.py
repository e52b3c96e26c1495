"""The word rules of published CHAIR figures, for word lists that the user supplies.

Paper    Rohrbach et al., EMNLP 2018, arXiv:1809.02156; LisaAnne/Hallucination (BSD-2), whose `synonyms.txt`
         is the vocabulary: a line for each object, its name first, then its synonyms.
Rule     "original": every token is made singular, for any part of speech (the `pattern` package).
         "wordnet": every token becomes its WordNet lemma, as in the evaluators that came later. Tagger "nltk": as
         the part of speech that nltk's tagger gives it in the caption, as published. Tagger "none": the noun's lemma,
         and where that changes nothing, the verb's if it is in the vocabulary.
         Both then merge two-word names, left to right, and look the tokens up.
Lemmas   A JSON table. "original": word to singular. "wordnet": word to its lemmas as noun, verb, adjective and
         adverb. A word outside the table stays unchanged.
Differs  Without the tagger "wordnet" is near the published evaluator (which finds other objects in three captions of a
         hundred), not equal to it. With it tokens are split by mmhall's rules, and lemmas are the table's, not nltk's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmhall.benchmarks.data.reading import read_json, read_text
from mmhall.benchmarks.data.vocabulary import Mention
from mmhall.benchmarks.rules.tagging import using_nltk
from mmhall.benchmarks.rules.tokens import Token, tokenize
from mmhall.errors import DataError

RULES = ("original", "wordnet")
TAGGERS = ("none", "nltk")
_SPEECH = {"V": 1, "J": 2, "R": 3}  # initial of a tag to the lemma's place; the noun's is 0, as that of any other tag
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


@dataclass(frozen=True, slots=True)
class Reading:
    """The objects named in a caption.

    Attributes:
        mentions: Objects named, in order.
        tokens: Number of tokens, with punctuation and merged names as one token each: the original's length.
    """

    mentions: tuple[Mention, ...]
    tokens: int


@dataclass(frozen=True)
class WordRule:
    """A word rule with its tables.

    Attributes:
        name: "original" or "wordnet".
        nodes: Word to the object it names.
        lemmas: Word to its singular ("original"), or to its lemmas as noun, verb, adjective, adverb ("wordnet").
        tagger: Part-of-speech tagger of "wordnet", one of `TAGGERS`.
    """

    name: str
    nodes: Mapping[str, str]
    lemmas: Mapping[str, Any]
    tagger: str = "none"

    def read(self, text: str) -> Reading:
        """Find every object that a caption names."""
        tokens = tokenize(text)
        normal = self.normal([token.text for token in tokens])
        merged = merge([Token(word, t.start, t.end) for word, t in zip(normal, tokens, strict=True)])
        words = {token.text for token in merged}
        dropped = {"seat"} if {"toilet", "seat"} <= words else set[str]()
        named = [t for t in merged if t.text in self.nodes and t.text not in dropped]
        return Reading(tuple(Mention(self.nodes[t.text], t.start, t.end) for t in named), len(merged))

    def normal(self, words: Sequence[str]) -> list[str]:
        """Return the normal forms of a caption's words, which are looked up."""
        if self.name == "original":
            return [str(self.lemmas.get(word, word)) for word in words]
        if self.tagger == "nltk":
            with using_nltk("chair: tagger 'nltk'", "tagger='none'") as nltk:
                tagged: list[tuple[str, str]] = nltk.pos_tag(list(words))
            return [str(self.lemmas[w][_SPEECH.get(tag[:1], 0)]) if w in self.lemmas else w for w, tag in tagged]
        return [self._untagged(word) for word in words]

    def _untagged(self, word: str) -> str:
        noun, verb = self.lemmas.get(word, (word, word))[:2]
        return str(verb if noun == word and verb in self.nodes else noun)


def merge(tokens: list[Token]) -> list[Token]:
    """Merge two-word names, left to right."""
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
def word_rule(name: str, vocabulary: str, lemmas: str, tagger: str = "none") -> WordRule:
    """Read the tables of a rule.

    Args:
        name: "original" or "wordnet".
        vocabulary: Path of `synonyms.txt`.
        lemmas: Path of the table of lemmas.
        tagger: One of `TAGGERS`.

    Raises:
        DataError: A file is missing or malformed.
    """
    return WordRule(name, _nodes(Path(vocabulary)), _lemmas(Path(lemmas), name), tagger)


def _nodes(path: Path) -> dict[str, str]:
    expected = 'a vocabulary with lines such as "person, girl, boy"'
    lines = [line.strip().split(", ") for line in read_text(path, expected).splitlines() if line.strip()]
    nodes = {word: words[0] for words in lines for word in words}  # a word with a space before it never matches
    if not any(len(words) > 1 for words in lines):
        raise DataError(f"{path}: no line names an object and a synonym; give {expected}")
    return nodes


def _lemmas(path: Path, name: str) -> dict[str, Any]:
    each = '"men": "man"' if name == "original" else '"children": ["child", "children", "children", "children"]'
    expected = f"a JSON table such as {{{each}}}"
    table = read_json(path, expected)
    if not isinstance(table, dict) or not table:
        raise DataError(f"{path}: is no table of words; give {expected}")
    for word, lemma in table.items():
        listed = isinstance(lemma, list) and len(lemma) == 4 and all(isinstance(form, str) for form in lemma)
        if not (isinstance(lemma, str) if name == "original" else listed):
            raise DataError(f"{path}: {word!r} has {lemma!r}; rule {name!r} needs {expected}")
    return table
