"""POPE: polling-based object probing.

Paper    Li et al., EMNLP 2023, arXiv:2305.10355; RUCAIBox/POPE.
Items    For each picture with at least three objects: a yes question for each of the first three
         listed, and after each a no question. The absent object is drawn by the setting: *random*
         (any), *popular* (the most frequent absent one), *adversarial* (the one that most often
         appears together with the object just asked for). Frequencies are counted on the pictures used.
Prompt   The question, then "Answer the question using a single word or phrase." on a new line
         (LLaVA-1.5's profile).
Rule     "strict" (ours), "official", "opera", "vcd", "lmms-eval", "vlmevalkit": see
         `mmhall.benchmarks.yesno`.
Metrics  accuracy, F1, precision, recall (positive class "yes"), yes ratio of the answers, unparsed.
Differs  Seeded; pictures and categories are sorted first. The three settings share their yes
         questions, as in the paper; a question asked in several settings is answered once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmhall.benchmarks.base import Counts, Item, Metric
from mmhall.benchmarks.pictures import Picture, PictureBenchmark, PictureSet
from mmhall.benchmarks.yesno import METRICS, RULES, parse_official, parse_strict, score, tally
from mmhall.errors import DataError
from mmhall.options import option

__all__ = ["SETTINGS", "SUFFIX", "Pope", "parse_official", "parse_strict", "question_about", "score"]

SETTINGS = ("random", "popular", "adversarial")
PER_PICTURE = 3
SUFFIX = "\nAnswer the question using a single word or phrase."


def question_about(name: str) -> str:
    """Ask for an object: "Is there an apple in the image?"."""
    return f"Is there {'an' if name[0].lower() in 'aeiou' else 'a'} {name} in the image?"


@dataclass(frozen=True)
class Pope(PictureBenchmark):
    """Yes/no questions about present and absent objects.

    Attributes:
        rule: How answers are read.
        max_new_tokens: Most tokens an answer may have.
    """

    name: ClassVar[str] = "pope"
    groups: ClassVar[tuple[str, ...]] = SETTINGS
    metrics: ClassVar[tuple[Metric, ...]] = METRICS

    rule: str = option("strict", choices=tuple(RULES))
    max_new_tokens: int = option(8, low=1)

    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Build the questions of all three settings; one asked in several settings is one item."""
        used = [p for p in pictures.pictures if len(p.objects) >= PER_PICTURE]
        if not used:
            raise DataError(f"pope: no picture has {PER_PICTURE} objects; it needs some that do")
        groups: dict[tuple[str, str], list[str]] = {}
        for setting in SETTINGS:
            for picture, name in _asked(used, pictures.categories, setting, random.Random(f"pope/{setting}/{seed}")):
                groups.setdefault((picture.id, name), []).append(setting)
        order = {p.id: i for i, p in enumerate(used)}  # by picture: a partial run is then balanced
        by_id = {p.id: p for p in used}
        return [
            Item(
                f"{picture}/{name}",
                picture,
                question_about(name) + SUFFIX,
                tuple(settings),
                {
                    "label": "yes" if name in by_id[picture].objects else "no",
                    "object": name,
                    "visibility": by_id[picture].visibility.get(name, ""),
                },
            )
            for (picture, name), settings in sorted(groups.items(), key=lambda group: order[group[0][0]])
        ]

    def count(self, item: Item, text: str) -> Counts:
        """Count one answer against its label."""
        return tally(self.rule, item.truth["label"], text)

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark the whole answer as right or wrong."""
        return [(0, len(text), tally(self.rule, item.truth["label"], text)["right"] == 1)]


def _asked(
    pictures: Sequence[Picture], categories: Sequence[str], setting: str, rng: random.Random
) -> list[tuple[Picture, str]]:
    """List (picture, object) in the order of the official generator: yes, no, yes, no, ..."""
    frequency = Counter(name for p in pictures for name in p.objects)
    together: dict[str, Counter[str]] = {name: Counter() for name in frequency}
    for p in pictures:
        for a in p.objects:
            together[a].update(b for b in p.objects if b != a)
    everything = sorted(frequency)
    popular = [name for name, _ in frequency.most_common()]
    asked: list[tuple[Picture, str]] = []
    for p in pictures:
        taken = set(p.objects)
        for present in p.objects[:PER_PICTURE]:
            ranked = {"random": [], "popular": popular, "adversarial": [n for n, _ in together[present].most_common()]}
            absent = next((n for n in ranked[setting] if n not in taken), None)
            if absent is None:
                free = [n for n in everything if n not in taken] or [n for n in categories if n not in taken]
                if not free:
                    raise DataError(
                        f"pope: picture {p.id} shows every category there is; no absent object is left to ask for"
                    )
                absent = rng.choice(free)
            taken.add(absent)
            asked += [(p, present), (p, absent)]
    return asked
