"""AMBER: what captions make up, and yes/no questions about existence, attributes and relations.

Paper    Wang et al., arXiv:2311.07397; junyangwang0410/AMBER.
Items    "amber-g": one caption for each picture. "amber-d": yes/no questions (existence, the attributes
         state, number and action, relation). Both from the authors' data folder: query_all.json,
         annotations.json, and for captions relation.json and safe_words.txt; pictures AMBER_1.jpg and so
         on in --images, or in the folder or its folder `image`.
Prompt   amber-g: "official", as in the file ("Describe this image."); "lmms-eval", without the full stop.
         amber-d: the question; "vlmevalkit" adds "Please answer yes or no." on a new line, "official" nothing.
Rule     amber-d: "first-word", mmhall's: the first word is yes or no; "exact", the authors': the answer is Yes
         or No and nothing else; "contains": it contains yes, or else no, in any case, also within words.
         amber-g: "mmhall": words of AMBER's closed vocabulary and their plurals, of any part of
         speech: not the authors' extraction. "official": nouns by nltk's tagger and lemmatiser,
         which must be installed. Then nouns get owners as in the authors' script (`rules.amber`). All rules read the
         answer after a model's thoughts (`thoughts`).
Metrics  amber-d: accuracy; precision, recall and F1 of the positive class "no"; no ratio; unparsed. An answer that
         is neither is wrong. amber-g, all over the whole corpus: CHAIR, hallucinated nouns among nouns;
         Cover, objects named among those there; Hal, captions with a hallucinated noun; Cog, objects named
         among those models tend to make up; words.
Differs  Plain ratios. The authors' script lets denominators start at 0.001 and rounds before it combines:
         a table of the report gives its figures to the digit, and for runs of both benchmarks the AMBER score
         (`rules.amber`). Word similarities are read from a table (`similarities='FILE'`); without a table only
         equal words are similar, where the authors use spaCy's vectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from mmhall.benchmarks.base import Benchmark, Counts, Item, Material, Metric, OfficialFigures, Source, by_strategy
from mmhall.benchmarks.data.amber import READS, Query, Words, read_queries, read_similarities, read_words
from mmhall.benchmarks.rules import yesno
from mmhall.benchmarks.rules.amber import (
    DIMENSIONS,
    SIMILAR,
    NounMarks,
    YesNo,
    dimensions,
    mark_nouns,
    official_caption_figures,
    official_figures,
)
from mmhall.benchmarks.rules.tagging import using_nltk
from mmhall.benchmarks.rules.thoughts import blank_thoughts, remove_thoughts
from mmhall.benchmarks.rules.yesno import Label
from mmhall.errors import DataError
from mmhall.objects.plurals import plural
from mmhall.options import option
from mmhall.results.store import Row

Noun = tuple[str, int, int]


def parse_exact(answer: str) -> YesNo | None:
    """Parse an answer that is exactly Yes or No.

    >>> parse_exact("No"), parse_exact("no"), parse_exact("No.")
    ('No', None, None)
    """
    return "Yes" if answer == "Yes" else "No" if answer == "No" else None


def parse_contains(answer: str) -> YesNo | None:
    """Parse an answer that contains yes, or else no.

    >>> parse_contains("no or YES"), parse_contains("I do not know"), parse_contains("Maybe")
    ('Yes', 'No', None)
    """
    return _capital(yesno.parse_contains(answer))


def parse_first_word(answer: str) -> YesNo | None:
    """Parse the first word as yes or no.

    >>> parse_first_word("**No**, it is not"), parse_first_word("There is no cloud")
    ('No', None)
    """
    return _capital(yesno.parse_strict(answer))


def _capital(label: Label | None) -> YesNo | None:
    return None if label is None else "Yes" if label == "yes" else "No"


RULES: dict[str, Callable[[str], YesNo | None]] = {
    "first-word": parse_first_word,
    "exact": parse_exact,
    "contains": parse_contains,
}
SUFFIXES = {"vlmevalkit": "\nPlease answer yes or no.", "official": ""}


@dataclass(frozen=True)
class AmberD(Benchmark):
    """Yes/no questions about existence, attributes and relations.

    Attributes:
        rule: Rule that reads answers.
        max_new_tokens: Limit of tokens of an answer.
        prompt: Profile of the text after a question.
    """

    name: ClassVar[str] = "amber-d"
    groups: ClassVar[tuple[str, ...]] = DIMENSIONS
    leading: ClassVar[tuple[tuple[str, str], ...]] = (("overall", "accuracy"), ("overall", "F1 of no"))
    yes_no: ClassVar[bool] = True
    official: ClassVar[str] = "accuracy/precision/recall/F1"
    reads: ClassVar[str] = READS
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", {"right": 1}, {"n": 1}, "higher", flag="right"),
        Metric("F1 of no", {"both": 2}, {"said_no": 1, "is_no": 1}, "higher"),
        Metric("precision", {"both": 1}, {"said_no": 1}, "higher"),
        Metric("recall", {"both": 1}, {"is_no": 1}, "higher"),
        Metric("no ratio", {"said_no": 1}, {"n": 1}),
        Metric("unparsed", {"unparsed": 1}, {"n": 1}, "lower"),
    )

    rule: str = option("first-word", choices=tuple(RULES))
    max_new_tokens: int = option(8, low=1)
    prompt: str = option("vlmevalkit", choices=tuple(SUFFIXES))

    def material(self, source: Source) -> Material:
        """Read the questions."""
        queries, pictures = read_queries(source, self.name, generative=False)
        return Material(tuple(self._item(query) for query in queries), pictures)

    def _item(self, query: Query) -> Item:
        truth = {"label": query.annotation.choice("truth", ("Yes", "No")), "type": query.kind}
        return Item(query.id, query.image, query.text + SUFFIXES[self.prompt], dimensions(query.kind), truth)

    def count(self, item: Item, text: str) -> Counts:
        """Count one answer against its label."""
        return score(item.truth["label"], RULES[self.rule](remove_thoughts(text)))

    def official_figures(self, items: Sequence[Item], rows: Sequence[Row]) -> OfficialFigures:
        """Return the figures of the authors' script by dimension, with the answers parsed by this rule."""
        truths, figures = {item.id: item.truth for item in items}, {}
        for strategy, answers in by_strategy(rows).items():
            read = [(truths[row.item], RULES[self.rule](remove_thoughts(row.text))) for row in answers]
            by_dimension = official_figures((truth["type"], truth["label"], answer) for truth, answer in read)
            asked = {name for truth, _ in read for name in dimensions(truth["type"])}
            figures[strategy] = {name: astuple(f) for name, f in by_dimension.items() if name in asked}
        return figures

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark the whole answer as right or wrong."""
        return [(0, len(text), RULES[self.rule](remove_thoughts(text)) == item.truth["label"])]


def score(label: YesNo, answered: YesNo | None) -> Counts:
    """Count one answer.

    >>> score("No", None)
    {'n': 1, 'right': 0, 'both': 0, 'said_no': 0, 'is_no': 1, 'unparsed': 1}
    """
    return {
        "n": 1,
        "right": int(answered == label),
        "both": int(answered == label == "No"),
        "said_no": int(answered == "No"),
        "is_no": int(label == "No"),
        "unparsed": int(answered is None),
    }


def find_nouns(text: str, vocabulary: Sequence[str]) -> list[Noun]:
    """Find words of a vocabulary and their plurals: (word, start, end), in order, repeats included.

    >>> find_nouns("Dogs near the TV; a dog-house.", ["dog", "TV"])
    [('dog', 0, 4), ('TV', 14, 16)]
    """
    table = _forms(tuple(vocabulary))
    words = re.finditer(r"[^\W\d_]+(?:-[^\W\d_]+)*", text)
    return [(table[w.group().lower()], w.start(), w.end()) for w in words if w.group().lower() in table]


@lru_cache(maxsize=4)
def _forms(vocabulary: tuple[str, ...]) -> dict[str, str]:
    """Map singular and plural, in lower case, to the word; a word of the vocabulary is never read as a plural."""
    return {plural(word).lower(): word for word in vocabulary} | {word.lower(): word for word in vocabulary}


def find_official_nouns(text: str, vocabulary: Sequence[str]) -> list[Noun]:
    """Find nouns of a vocabulary as the authors' script does, with nltk; see `find_nouns`.

    Raises:
        DataError: nltk or its data is not installed.
    """
    nouns, at = [], 0
    with using_nltk("amber-g: rule 'official'", "rule='mmhall'") as nltk:
        lemma = nltk.stem.WordNetLemmatizer().lemmatize
        for token, tag in nltk.pos_tag(nltk.word_tokenize(text)):
            start = text.find(token, at)
            at = start + len(token) if start >= 0 else at
            if tag.startswith("NN") and (word := lemma(token)) in vocabulary:
                nouns.append((word, max(start, 0), at))
    return nouns


NOUNS = {"mmhall": find_nouns, "official": find_official_nouns}


@dataclass(frozen=True)
class AmberG(Benchmark):
    """Captions checked against the objects in the picture, and against objects that models tend to hallucinate.

    Attributes:
        rule: Rule that finds nouns in captions.
        max_new_tokens: Limit of tokens of a caption.
        prompt: Wording of the request for a caption.
        similarities: File of word similarities; "": only equal words are similar.
        words: Folder of relation.json and safe_words.txt; "": the folder of the data.
    """

    name: ClassVar[str] = "amber-g"
    groups: ClassVar[tuple[str, ...]] = ("captions",)
    trades: ClassVar[str] = "Cover"
    reads: ClassVar[str] = READS
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("CHAIR", {"hallucinated": 1}, {"nouns": 1}, "lower"),
        Metric("Cover", {"covered": 1}, {"objects": 1}, "higher"),
        Metric("Hal", {"flawed": 1}, {"n": 1}, "lower", flag="flawed"),
        Metric("Cog", {"foreseen": 1}, {"expected": 1}, "lower"),
        Metric("words", {"words": 1}, {"n": 1}, percent=False),
    )

    rule: str = option("mmhall", choices=tuple(NOUNS))
    max_new_tokens: int = option(512, low=1)
    prompt: str = option("official", choices=("official", "lmms-eval"))
    similarities: str = option("", expected="a path, as text")
    words: str = option("", expected="a path, as text")

    def material(self, source: Source) -> Material:
        """Read the queries, and the word tables for each picture."""
        if self.rule == "official":
            find_official_nouns("Nothing.", ())
        queries, pictures = read_queries(source, self.name, generative=True)
        if self.words and not Path(self.words).is_dir():
            raise DataError(f"{self.words}: is no folder; amber-g looks there for relation.json and safe_words.txt")
        words = read_words(Path(self.words) if self.words else source.data_path(self.name, READS))
        table = read_similarities(Path(self.similarities)) if self.similarities else {}
        alike: dict[str, list[str]] = {}
        for (noun, word), similarity in table.items():
            if similarity > SIMILAR and noun != word:
                alike.setdefault(word, []).append(noun)
        items = [self._item(query, words, alike) for query in queries]
        return Material(tuple(items), pictures, self._remarks())

    def _remarks(self) -> tuple[str, ...]:
        reasons = [] if self.rule == "official" else ["nouns are found by our own rule"]
        reasons += [] if self.similarities else ["only equal words are similar"]
        return (f"not the authors' figures: {', and '.join(reasons)}.",) if reasons else ()

    def _item(self, query: Query, words: Words, alike: Mapping[str, Sequence[str]]) -> Item:
        objects = query.annotation.texts("truth"), query.annotation.texts("hallu")
        unknown = [name for names in objects for name in names if name not in words.associations]
        if unknown:
            raise DataError(f"{query.annotation.where}: {unknown[0]!r} is not in relation.json; both must match")
        associations = {name: words.associations[name] for names in objects for name in names}
        reached = sorted({*associations, *(word for named in associations.values() for word in named)})
        truth = {
            "truth": objects[0],
            "hallu": objects[1],
            "associations": associations,
            "alike": [[noun, word] for word in reached for noun in sorted(alike.get(word, ()))],
            "neutral": words.neutral,
            "vocabulary": words.vocabulary,
        }
        prompt = query.text if self.prompt == "official" else "Describe this image"
        return Item(query.id, query.image, prompt, ("captions",), truth)

    def count(self, item: Item, text: str) -> Counts:
        """Count one caption."""
        marked = mark_caption(item, [noun for noun, _, _ in self._nouns(item, text)])
        return {
            "n": 1,
            "nouns": len(marked.hallucinated),
            "hallucinated": sum(marked.hallucinated),
            "flawed": int(any(marked.hallucinated)),
            "objects": len(marked.covered),
            "covered": sum(marked.covered),
            "expected": len(marked.foreseen),
            "foreseen": sum(marked.foreseen),
            "words": len(re.findall(r"[\w'-]+", remove_thoughts(text))),
        }

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark each noun that counts."""
        nouns = self._nouns(item, text)
        wrong = mark_caption(item, [noun for noun, _, _ in nouns]).hallucinated
        return [(start, end, not bad) for (_, start, end), bad in zip(nouns, wrong, strict=True)]

    def official_figures(self, items: Sequence[Item], rows: Sequence[Row]) -> OfficialFigures:
        """Return the figures of the authors' script, with the nouns found by this rule."""
        by_id, figures = {item.id: item for item in items}, {}
        for strategy, answers in by_strategy(rows).items():
            captions = [(by_id[row.item], self._nouns(by_id[row.item], row.text)) for row in answers]
            f = official_caption_figures(mark_caption(item, [noun for noun, _, _ in nouns]) for item, nouns in captions)
            figures[strategy] = {"CHAIR": (f.chair,), "Cover": (f.cover,), "Hal": (f.hal,), "Cog": (f.cog,)}
        return figures

    def _nouns(self, item: Item, text: str) -> list[Noun]:
        return NOUNS[self.rule](blank_thoughts(text), item.truth["vocabulary"])


def mark_caption(item: Item, nouns: Sequence[str]) -> NounMarks:
    """Assign the nouns of a caption to objects; see `mark_nouns`."""
    truth = item.truth
    alike = {(noun, word) for noun, word in truth["alike"]}
    return mark_nouns(
        nouns,
        truth["truth"],
        truth["hallu"],
        truth["associations"],
        truth["neutral"],
        lambda noun, word: float(noun == word or (noun, word) in alike),
    )
