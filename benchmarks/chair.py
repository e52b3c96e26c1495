"""CHAIR: hallucinated objects in captions, those named but not in the picture.

Paper    Rohrbach et al., EMNLP 2018, arXiv:1809.02156; LisaAnne/Hallucination.
Items    One caption per picture.
Prompt   "Please describe this image in detail."
Rule     "mmhall": objects are found with mmhall's own vocabulary (`mmhall.benchmarks.data.vocabulary`): COCO's
         eighty categories with synonyms and plurals. Words outside it are ignored, as in the original.
         "original" and "wordnet": the published word rules, with word lists you supply (`vocabulary`: the
         original's synonyms.txt, `lemmas`: a JSON table; see `mmhall.benchmarks.rules.chair`). "wordnet"
         has no part-of-speech tagger, close to the published evaluator, or nltk's (`tagger='nltk'`).
         Data with other categories than COCO's: "mmhall" finds its categories, each by
         its names, singular and plural, however they are spelt ("Cabinet/shelf": `benchmarks/data/categories.py`), by
         the `synonyms` of a detection file, and COCO's by mmhall's words, too; `vocabulary` may be a JSON file, object
         to words, with phrases that name no object under "suppress". A remark lists names found in no caption.
         Files are part of a run: its answers are only read with the same files. All rules read the answer after a
         model's thoughts (`thoughts`).
Truth    The annotation; with `captions`, a COCO captions file, also the objects found in them, as in the original.
Groups   *equal mentions*: each strategy against the baseline with both captions of a picture cut after as many
         mentions of objects as the one with fewer has, since late mentions are hallucinated more often; a picture of
         which one caption names nothing counts in neither. *equal length*: both cut to the words of the shorter one.
         *captions*: unchanged. In the first two the baseline's own line is uncut.
Metrics  CHAIR_i, the share of named objects (repeats counted) that are absent; CHAIR_s, the share of
         captions with at least one; recall of the objects present; words per caption. All over the
         whole corpus, not means of per-caption ratios.
         By cause: CHAIR_i in three parts that add up to it. An absent object is *co-occurring* if it is
         among the three categories that most often appear together with some object of the picture,
         else *popular* if it is among the ten most frequent of the set, else *random*; ties by name,
         counted once on the pictures used, when items are made.
         By visibility: recall of objects by visibility, where the data has it.
         Objects: named and absent ones per caption (repeats counted), precision and F1 of the sets;
         with a published word rule Len, its tokens per caption, punctuation included.
Options  `words` cuts every caption to a number of words, `drop_unfinished` then drops a last sentence
         without an end; both before counting, for every strategy alike.
Differs  "mmhall" is not the original word list or lemmatiser (98 % of captions agree with one published rule or
         the other, see `benchmarks/data/vocabulary.py`), so figures do not compare with published tables to the digit.
         Words are counted without punctuation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmhall.benchmarks.base import Counts, Item, Metric
from mmhall.benchmarks.data.pictures import Picture, PictureBenchmark, PictureSet, read_captions
from mmhall.benchmarks.data.vocabulary import Mention, item_vocabulary, mentions, own_vocabulary
from mmhall.benchmarks.rules.chair import RULES, TAGGERS, WordRule, word_rule
from mmhall.benchmarks.rules.length import count_sentences, count_words, cut, finished_part
from mmhall.benchmarks.rules.thoughts import blank_thoughts
from mmhall.errors import DataError
from mmhall.objects.coco_words import SYNONYMS
from mmhall.options import option

if TYPE_CHECKING:
    from mmhall.results.store import Row

PROMPT = "Please describe this image in detail."
MATCHED, EQUAL, CAPTIONS = "equal mentions", "equal length", "captions"
CAUSES = ("co-occurring", "popular", "random")
VISIBILITIES = ("clear", "small", "faint", "covered")
PARTNERS, POPULAR = 3, 10
SHOWN = 10


@dataclass(frozen=True)
class Chair(PictureBenchmark):
    """Captions checked against the objects in the picture.

    Attributes:
        rule: Rule that finds objects in captions.
        max_new_tokens: Limit of tokens of a caption.
        words: Number of words that captions are cut to; 0: no cut.
        drop_unfinished: Whether to drop a last sentence without an end.
        vocabulary: Path of the original's synonyms.txt, for the published rules; of a JSON file, for rule "mmhall".
        lemmas: Path of the table of lemmas, for the published rules.
        tagger: Part-of-speech tagger of rule "wordnet": "none", or "nltk" if installed.
        captions: Path of a COCO captions file, whose objects count as present.
    """

    name: ClassVar[str] = "chair"
    groups: ClassVar[tuple[str, ...]] = (MATCHED, EQUAL, CAPTIONS)
    pairwise: ClassVar[tuple[str, ...]] = (MATCHED, EQUAL)
    trades: ClassVar[str] = "recall"
    plotted: ClassVar[str] = CAPTIONS
    leading: ClassVar[tuple[tuple[str, str], ...]] = (
        (MATCHED, "CHAIR_i"),
        (CAPTIONS, "CHAIR_i"),
        (CAPTIONS, "recall"),
        (CAPTIONS, "words"),
    )
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("CHAIR_i", {"absent": 1}, {"named": 1}, "lower"),
        Metric("CHAIR_s", {"flawed": 1}, {"n": 1}, "lower", flag="flawed"),
        Metric("recall", {"found": 1}, {"present": 1}, "higher"),
        Metric("words", {"words": 1}, {"n": 1}, percent=False),
        Metric("sentences", {"sentences": 1}, {"n": 1}, percent=False),
        *(Metric(cause, {f"absent {cause}": 1}, {"named": 1}, "lower", table="by cause") for cause in CAUSES),
        *(
            Metric(kind, {f"found {kind}": 1}, {f"present {kind}": 1}, "higher", table="by visibility")
            for kind in VISIBILITIES
        ),
        Metric("mentions", {"named": 1}, {"n": 1}, percent=False, table="objects"),
        Metric("hallucinated", {"absent": 1}, {"n": 1}, "lower", percent=False, table="objects"),
        Metric("precision", {"found": 1}, {"distinct": 1}, "higher", table="objects"),
        Metric("F1", {"found": 2}, {"distinct": 1, "present": 1}, "higher", table="objects"),
        Metric("Len", {"tokens": 1}, {"split": 1}, percent=False, table="objects"),
    )

    read_by: ClassVar[frozenset[str]] = frozenset(
        {"rule", "words", "drop_unfinished", "vocabulary", "lemmas", "tagger"}
    )

    rule: str = option("mmhall", choices=("mmhall", *RULES))
    max_new_tokens: int = option(128, low=1)
    words: int = option(0, low=0)
    drop_unfinished: bool = option(False)
    vocabulary: str = option("", expected="a path")
    lemmas: str = option("", expected="a path")
    tagger: str = option("none", choices=TAGGERS)
    captions: str = option("", expected="a path")

    def __post_init__(self) -> None:
        """Check that the rule has the files it reads, and no others."""
        super().__post_init__()
        uses_files, condition = self.rule in RULES, f"where the rule is {self.rule!r}"
        self.check(
            "vocabulary",
            bool(self.vocabulary) or not uses_files,
            f"the path of the original's synonyms.txt {condition}",
        )
        expected = "the path of a JSON table of lemmas" if uses_files else "left out"
        self.check("lemmas", bool(self.lemmas) == uses_files, f"{expected} {condition}")
        self.check("tagger", self.tagger == "none" or self.rule == "wordnet", f"'none' {condition}")

    def complete_pictures(self, pictures: PictureSet) -> tuple[PictureSet, list[str]]:
        """Add objects of reference captions, and remarks on the word lists."""
        names = self._names(pictures.categories)
        remarks = [f"captions are read with {path}, SHA-256 {sha}..." for path, sha in self._files().items()]
        if self.rule == "wordnet" and self.tagger == "none":
            remarks.append(
                "read without a part-of-speech tagger (fast mode): near the published evaluator, not equal to it; "
                "tagger='nltk' has one."
            )
        if names:
            remarks.append(
                f"the data has {len(set(names) - set(SYNONYMS))} categories that are not COCO's: only its {len(names)} "
                "are looked for, COCO's by our synonyms, others by their names and the words given with the data."
            )
        if self.captions:
            pictures, only = self._with_captions(pictures, names)
            total = sum(len(p.objects) for p in pictures.pictures)
            remarks.append(f"{only} of {total} objects are known from reference captions only.")
        if bare := sum(not p.objects for p in pictures.pictures):
            remarks.append(f"{bare} of {len(pictures.pictures)} pictures show no known object and are left out.")
        return pictures, remarks

    def _with_captions(self, pictures: PictureSet, names: Sequence[str]) -> tuple[PictureSet, int]:
        """Add objects of reference captions; also return the number of added objects."""
        references = read_captions(Path(self.captions))
        if not any(p.id in references for p in pictures.pictures):
            raise DataError(f"{self.captions}: has no caption of any of the {len(pictures.pictures)} pictures")
        added = [
            self._objects_from_captions(p, references.get(p.id, ()), names, pictures.words) for p in pictures.pictures
        ]
        extended = [replace(p, objects=(*p.objects, *new)) for p, new in zip(pictures.pictures, added, strict=True)]
        return replace(pictures, pictures=tuple(extended)), sum(map(len, added))

    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Ask for one caption of each picture with objects."""
        names = self._names(pictures.categories)
        used = [p for p in pictures.pictures if p.objects]
        likely, files = Cooccurrence([p.objects for p in used]), self._files()
        words = {name: list(listed) for name, listed in pictures.words.items()}
        return [
            Item(
                p.id,
                p.id,
                PROMPT,
                self.groups,
                {
                    "objects": list(p.objects),
                    "visibility": p.visibility,
                    "causes": likely.causes(p.objects),
                    **({"names": names} if names else {}),
                    **({"words": words} if names and words else {}),
                    **({"files": files} if files else {}),
                },
            )
            for p in used
        ]

    def count(self, item: Item, text: str) -> Counts:
        """Count one caption against the objects in the picture."""
        return self._count(item, self._counted_text(text))

    def reading_remarks(self, items: Sequence[Item], rows: Sequence[Row]) -> tuple[str, ...]:
        """List objects that no caption names, for data with other categories than COCO's: words may be missing."""
        by_id = {item.id: item for item in items if "names" in item.truth}
        read = [(by_id[row.item].truth, row.text) for row in rows if row.item in by_id]
        present = {name for truth, _ in read for name in truth["objects"]}
        never = sorted(
            present - {m.name for truth, text in read for m in self._find_mentions(self._counted_text(text), truth)[0]}
        )
        if not never:
            return ()
        listed = ", ".join(map(repr, never[:SHOWN])) + (", ..." if len(never) > SHOWN else "")
        return (
            f"{len(never)} of the {len(present)} objects in the pictures are named in no caption: {listed}. If "
            "captions have other words for them, give those with vocabulary=FILE.",
        )

    def paired(
        self, items: Sequence[Item], rows: Sequence[Row], base_rows: Sequence[Row], group: str = EQUAL
    ) -> tuple[list[Counts], list[Counts]]:
        """Count both captions of a picture, cut to the words or to the mentions of the one with fewer."""
        counted: tuple[list[Counts], list[Counts]] = [], []
        for item, *pair in zip(items, rows, base_rows, strict=True):
            texts = [self._counted_text(row.text) for row in pair]
            both = self._matched(item, texts) if group == MATCHED else self._equally_long(item, texts)
            for counts, one in zip(counted, both, strict=True):
                counts.append(one)
        return counted

    def _equally_long(self, item: Item, texts: Sequence[str]) -> list[Counts]:
        shorter = min(map(count_words, texts))
        return [self._count(item, cut(text, shorter)) for text in texts]

    def _matched(self, item: Item, texts: Sequence[str]) -> list[Counts]:
        """Cut captions after equally many mentions; all counts are 0 where a caption has none."""
        found = [self._find_mentions(text, item.truth)[0] for text in texts]
        fewer = min(map(len, found))
        if not fewer:
            return [dict.fromkeys(self._count(item, ""), 0.0) for _ in texts]
        ends = [mentioned[fewer - 1].end for mentioned in found]
        return [
            self._count(item, text[:end], mentioned[:fewer])
            for text, end, mentioned in zip(texts, ends, found, strict=True)
        ]

    def _count(self, item: Item, read: str, known: Sequence[Mention] | None = None) -> Counts:
        """Count the mentions in a text: those that are known, else those found there."""
        truth = item.truth
        found, tokens = self._find_mentions(read, truth)
        mentioned = found if known is None else known
        named = [m.name for m in mentioned]
        return {
            **_score(truth["objects"], named, read),
            **_by_cause([name for name in named if name not in truth["objects"]], truth.get("causes", {})),
            **_by_visibility(set(named), truth.get("visibility", {})),
            "distinct": len(set(named)),
            "tokens": tokens,
            "split": int(self.rule in RULES),
        }

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark each object named in the counted text."""
        mentioned = self.named(item, text)
        return [(m.start, m.end, m.name in item.truth["objects"]) for m in mentioned]

    def named(self, item: Item, text: str) -> Sequence[Mention]:
        """Return the objects named in the counted text, in order."""
        return self._find_mentions(self._counted_text(text), item.truth)[0]

    def claims(self, item: Item, text: str) -> Mapping[str, bool]:
        """Return the objects named in the counted text, and whether each is in the picture."""
        mentioned = self.named(item, text)
        return {m.name: m.name in item.truth["objects"] for m in mentioned}

    def _names(self, categories: Sequence[str]) -> list[str]:
        """Return the categories of data with other categories than COCO's; else none.

        Raises:
            DataError: The rule has no words for a category.
        """
        if self.rule not in RULES:
            own_vocabulary(self.vocabulary)
            return sorted(categories) if set(categories) - set(SYNONYMS) else []
        unknown = sorted(set(categories) - set(self._word_rule.nodes.values()))
        if unknown:
            reason = f"{len(unknown)} such categories; rule 'mmhall' takes any"
            raise DataError(f"chair: {unknown[0]!r} is no object of {self.vocabulary} ({reason})")
        return []

    def _find_mentions(self, text: str, truth: Mapping[str, Any]) -> tuple[Sequence[Mention], int]:
        """Find the objects named in a text; also return its number of tokens, 0 for rule "mmhall".

        Raises:
            DataError: The rule's files differ from those that the items were made with.
        """
        digests = truth.get("files", {})
        for path, sha in self._files().items():
            if digests.get(path, sha) != sha:  # a file at another path was requested by the user
                reason = "is not the file the run was started with; put that back, or start a new run"
                raise DataError(f"{path}: {reason}")
        if self.rule not in RULES:
            return item_vocabulary(truth, self.vocabulary).mentions(text), 0
        reading = self._word_rule.read(text)
        return reading.mentions, reading.tokens

    @property
    def _word_rule(self) -> WordRule:
        return word_rule(self.rule, self.vocabulary, self.lemmas, self.tagger)

    def _files(self) -> dict[str, str]:
        """Return the SHA-256 digests of the rule's files, 16 hex digits each, by path."""
        return {path: digest(path) for path in (self.vocabulary, self.lemmas) if path}

    def _objects_from_captions(
        self, picture: Picture, captions: Sequence[str], names: Sequence[str], words: Mapping[str, Sequence[str]]
    ) -> list[str]:
        """Return objects named in captions but missing in the annotation, in order."""
        truth = {"names": names, "words": words if names else {}, "files": self._files()}
        named = dict.fromkeys(m.name for caption in captions for m in self._find_mentions(caption, truth)[0])
        return [name for name in named if name not in picture.objects]

    def _counted_text(self, text: str) -> str:
        """Return the part of a caption that counts, with blanks for a model's thoughts."""
        text = blank_thoughts(text)
        text = cut(text, self.words) if self.words else text
        return finished_part(text) if self.drop_unfinished else text


class Cooccurrence:
    """Object frequencies and co-occurrences in a set of pictures, for the cause of a hallucination."""

    def __init__(self, pictures: Iterable[Collection[str]]) -> None:
        """Count how often objects appear, and appear together, in pictures."""
        frequency: Counter[str] = Counter()
        together: dict[str, Counter[str]] = {}
        for objects in pictures:
            frequency.update(set(objects))
            for name in objects:
                together.setdefault(name, Counter()).update(set(objects) - {name})
        self._popular = _most_frequent(frequency, POPULAR)
        self._partners = {name: _most_frequent(counted, PARTNERS) for name, counted in together.items()}

    def causes(self, objects: Collection[str]) -> dict[str, str]:
        """Return the cause of each absent object that is co-occurring or popular; all others are random.

        >>> Cooccurrence([["cup", "table"], ["cup", "table"], ["dog"]]).causes(["cup"])
        {'dog': 'popular', 'table': 'co-occurring'}
        """
        partners = {partner for name in objects for partner in self._partners.get(name, ())}
        causes = dict.fromkeys(self._popular, "popular") | dict.fromkeys(partners, "co-occurring")
        return {name: causes[name] for name in sorted(causes) if name not in objects}


@lru_cache(maxsize=8)
def digest(path: str) -> str:
    """Return the SHA-256 digest of a file, 16 hex digits.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; the captions are read with it") from error


def score(present: Collection[str], caption: str) -> Counts:
    """Count one caption.

    >>> score(["dog", "car"], "A dog and a cat. The cat sleeps.")
    {'n': 1, 'named': 3, 'absent': 2, 'flawed': 1, 'found': 1, 'present': 2, 'words': 8, 'sentences': 2}
    """
    return _score(present, [m.name for m in mentions(caption)], caption)


def _score(present: Collection[str], named: Sequence[str], caption: str) -> Counts:
    absent = [name for name in named if name not in present]
    return {
        "n": 1,
        "named": len(named),
        "absent": len(absent),
        "flawed": int(bool(absent)),
        "found": len(set(named) & set(present)),
        "present": len(set(present)),
        "words": count_words(caption),
        "sentences": count_sentences(caption),
    }


def _by_cause(absent: Sequence[str], causes: Mapping[str, str]) -> Counts:
    causes_found = Counter(causes.get(name, "random") for name in absent)
    return {f"absent {cause}": causes_found[cause] for cause in CAUSES}


def _by_visibility(named: Collection[str], visibility: Mapping[str, str]) -> Counts:
    counts: Counts = {f"{count} {kind}": 0 for count in ("found", "present") for kind in VISIBILITIES}
    for name, kind in visibility.items():
        if kind in VISIBILITIES:
            counts[f"present {kind}"] += 1
            counts[f"found {kind}"] += name in named
    return counts


def _most_frequent(counted: Counter[str], most: int) -> list[str]:
    """Return the most frequent names; ties are ordered by name."""
    return sorted(counted, key=lambda name: (-counted[name], name))[:most]
