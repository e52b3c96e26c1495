"""CHAIR: objects a caption names that are not in the picture.

Paper    Rohrbach et al., EMNLP 2018, arXiv:1809.02156; LisaAnne/Hallucination.
Items    One caption per picture.
Prompt   "Please describe this image in detail."
Rule     "mmhall": objects are found with our own vocabulary (`mmhall.benchmarks.vocabulary`): COCO's
         eighty categories with synonyms and plurals. Words outside it are ignored, as in the original.
Metrics  CHAIR_i, the share of named objects (repeats counted) that are absent; CHAIR_s, the share of
         captions with at least one; recall of the objects present; words per caption. All over the
         whole corpus, not means of per-caption ratios.
Differs  Not the original word list or lemmatiser, so figures do not compare with published tables to
         the digit. Truth is the annotation alone; the original adds objects of reference captions.
         Words are counted without punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmhall.benchmarks.base import Counts, Item, Metric
from mmhall.benchmarks.pictures import PictureBenchmark, PictureSet
from mmhall.benchmarks.vocabulary import SYNONYMS, mentions
from mmhall.errors import DataError
from mmhall.options import option

PROMPT = "Please describe this image in detail."


@dataclass(frozen=True)
class Chair(PictureBenchmark):
    """Captions checked against the objects that are there.

    Attributes:
        rule: Which words name which object.
        max_new_tokens: Most tokens a caption may have.
    """

    name: ClassVar[str] = "chair"
    groups: ClassVar[tuple[str, ...]] = ("captions",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("CHAIR_i", {"absent": 1}, {"named": 1}, "lower"),
        Metric("CHAIR_s", {"flawed": 1}, {"n": 1}, "lower", flag="flawed"),
        Metric("recall", {"found": 1}, {"present": 1}, "higher"),
        Metric("words", {"words": 1}, {"n": 1}, percent=False),
        Metric("sentences", {"sentences": 1}, {"n": 1}, percent=False),
    )

    rule: str = option("mmhall", choices=("mmhall",))
    max_new_tokens: int = option(128, low=1)

    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Ask for one caption per picture that shows anything."""
        unknown = sorted(set(pictures.categories) - set(SYNONYMS))
        if unknown:
            raise DataError(
                f"chair: {unknown[0]!r} is no COCO category ({len(unknown)} such); the vocabulary knows COCO's 80"
            )
        return [
            Item(p.id, p.id, PROMPT, ("captions",), {"objects": list(p.objects), "visibility": p.visibility})
            for p in pictures.pictures
            if p.objects
        ]

    def count(self, item: Item, text: str) -> Counts:
        """Count one caption against the objects that are there."""
        return score(item.truth["objects"], text)

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark each object named."""
        return [(m.start, m.end, m.name in item.truth["objects"]) for m in mentions(text)]


def score(present: Collection[str], caption: str) -> Counts:
    """Count one caption.

    >>> score(["dog", "car"], "A dog and a cat. The cat sleeps.")
    {'n': 1, 'named': 3, 'absent': 2, 'flawed': 1, 'found': 1, 'present': 2, 'words': 8, 'sentences': 2}
    """
    named = [m.name for m in mentions(caption)]
    absent = [name for name in named if name not in present]
    return {
        "n": 1,
        "named": len(named),
        "absent": len(absent),
        "flawed": int(bool(absent)),
        "found": len(set(named) & set(present)),
        "present": len(set(present)),
        "words": len(re.findall(r"[\w'-]+", caption)),
        "sentences": len(re.findall(r"[.!?](?:\s|$)", caption)),
    }
