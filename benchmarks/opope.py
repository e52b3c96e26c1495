"""OPOPE: POPE's questions answered offline, from captions.

Paper    Chen et al., ICML 2024 (HALC), arXiv:2403.00425; BillChan226/HALC.
Items    One caption per picture with at least three objects, as for chair, with the same options. The questions are
         POPE's, made from the annotation (`pope`): for each of three present objects one absent object in each of the
         settings random, popular and adversarial. They are not asked: a caption that names the object says yes.
         Captions of a run of chair can be scored without a model: `mmhall export RUN --to chair.jsonl`, then
         `mmhall score opope chair.jsonl --data FILE`.
Prompt   As for chair.
Rule     As for chair. "substring", the authors': a caption names an object if it contains any word of its name, also
         within other words ("car" in "carpet"), and no synonym.
Groups   As for chair: *captions*, and *equal length*.
Metrics  accuracy, precision and F0.2, each the mean of the three settings; recall, which they share; yes ratio; words.
         By setting: accuracy, precision and F0.2. F0.2 is F-beta with beta 0.2, which weighs precision most:
         1.04 P R / (0.04 P + R). A caption need not name all it shows, so recall is low whatever the model sees.
Differs  Seeded, and the three settings share their yes questions, as in POPE. A shorter caption has fewer false yes and
         less recall: precision and F0.2 rise when a caption is cut, so accuracy is the primary metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from mmhall.benchmarks.base import Array, Counts, Item, Metric
from mmhall.benchmarks.chair import CAPTIONS, EQUAL, Chair
from mmhall.benchmarks.data.pictures import PictureSet
from mmhall.benchmarks.data.pope_maker import PER_PICTURE, SETTINGS, Recipe, make_questions
from mmhall.benchmarks.data.vocabulary import Mention
from mmhall.benchmarks.rules.chair import RULES
from mmhall.benchmarks.rules.length import count_words
from mmhall.options import option
from mmhall.results.statistics import Figure, ratio

BETA = 0.2
SUBSTRING = "substring"
_COUNTS = ("tp", "said_yes", "is_yes")


def f_beta(tp: Array, said_yes: Array, is_yes: Array) -> Array:
    """Return F-beta of precision tp / said_yes and recall tp / is_yes; 0 without a true yes.

    Precision 3/4, recall 1/2: 1.04 * 0.375 / (0.04 * 0.75 + 0.5) = 0.7358.

    >>> round(float(f_beta(3, 4, 6)), 4)
    0.7358
    """
    return ratio((1 + BETA**2) * np.asarray(tp), BETA**2 * np.asarray(is_yes) + said_yes)


def _precision(tp: Array, said_yes: Array, is_yes: Array) -> Array:
    return ratio(tp, said_yes)


def _mean_of_settings(figure: Figure, *sums: Array) -> Array:
    """Return the mean of a figure over the settings, from the counts of one setting after the other."""
    each = len(_COUNTS)
    mean: Array = np.mean([figure(*sums[at : at + each]) for at in range(0, len(sums), each)], axis=0)
    return mean


_ALL = tuple(f"{count} {setting}" for setting in SETTINGS for count in _COUNTS)


@dataclass(frozen=True)
class Opope(Chair):
    """POPE's questions answered from captions.

    Attributes:
        rule: Rule that finds objects in captions.
        per_picture: Number of present objects of a picture to ask for, and of absent ones in each setting.
    """

    name: ClassVar[str] = "opope"
    groups: ClassVar[tuple[str, ...]] = (CAPTIONS, EQUAL)
    pairwise: ClassVar[tuple[str, ...]] = (EQUAL,)
    trades: ClassVar[str] = ""
    leading: ClassVar[tuple[tuple[str, str], ...]] = ()
    same_answers: ClassVar[tuple[str, ...]] = ("chair",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", {"right": 1}, {"n": 1}, "higher"),
        Metric("precision", {}, {}, "higher", of=partial(_mean_of_settings, _precision), sums=_ALL),
        Metric(f"F{BETA}", {}, {}, "higher", of=partial(_mean_of_settings, f_beta), sums=_ALL),
        Metric("recall", {f"tp {SETTINGS[0]}": 1}, {f"is_yes {SETTINGS[0]}": 1}, "higher"),
        Metric("yes ratio", {f"said_yes {setting}": 1 for setting in SETTINGS}, {"n": 1}),
        Metric("words", {"words": 1}, {"captions": 1}, percent=False),
        *(
            metric
            for setting in SETTINGS
            for metric in (
                Metric(
                    f"{setting} accuracy", {f"right {setting}": 1}, {f"n {setting}": 1}, "higher", table="by setting"
                ),
                Metric(
                    f"{setting} precision",
                    {f"tp {setting}": 1},
                    {f"said_yes {setting}": 1},
                    "higher",
                    table="by setting",
                ),
                Metric(
                    f"{setting} F{BETA}",
                    {},
                    {},
                    "higher",
                    of=f_beta,
                    sums=tuple(f"{count} {setting}" for count in _COUNTS),
                    table="by setting",
                ),
            )
        ),
    )

    rule: str = option("mmhall", choices=("mmhall", *RULES, SUBSTRING))
    per_picture: int = option(PER_PICTURE, low=1)

    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Ask for one caption of each picture with enough objects, present and absent."""
        polls: dict[str, dict[str, list[list[str]]]] = {}
        for question in make_questions(pictures, seed, Recipe(self.per_picture)):
            for setting in question.ids:
                polls.setdefault(question.picture, {}).setdefault(setting, []).append(
                    [str(question.object), question.label]
                )
        return [
            Item(item.id, item.picture, item.prompt, item.groups, {**item.truth, "polls": polls[item.id]})
            for item in super().items(pictures, seed)
            if item.id in polls
        ]

    def complete_pictures(self, pictures: PictureSet) -> tuple[PictureSet, list[str]]:
        """Add what chair adds, and a remark on pictures with too few objects."""
        pictures, remarks = super().complete_pictures(pictures)
        few = sum(0 < len(picture.objects) < self.per_picture for picture in pictures.pictures)
        remark = (
            f"{few} of {len(pictures.pictures)} pictures show fewer than {self.per_picture} objects and are left out."
        )
        return pictures, [*remarks, remark] if few else remarks

    def _count(self, item: Item, read: str, known: Sequence[Mention] | None = None) -> Counts:
        polls: Mapping[str, Sequence[tuple[str, str]]] = item.truth["polls"]
        named = self._named(item, read) if known is None else {mention.name for mention in known}
        counts: Counts = {"n": 0, "right": 0, "captions": 1, "words": count_words(read)}
        for setting in SETTINGS:
            asked = [(name in named, label == "yes") for name, label in polls[setting]]
            counts |= {
                f"n {setting}": len(asked),
                f"right {setting}": sum(said == label for said, label in asked),
                f"tp {setting}": sum(said and label for said, label in asked),
                f"said_yes {setting}": sum(said for said, _ in asked),
                f"is_yes {setting}": sum(label for _, label in asked),
            }
            counts["n"] += counts[f"n {setting}"]
            counts["right"] += counts[f"right {setting}"]
        return counts

    def _named(self, item: Item, read: str) -> set[str]:
        """Return the objects that a caption names."""
        if self.rule != SUBSTRING:
            return {mention.name for mention in self._find_mentions(read, item.truth)[0]}
        asked = {name for polls in item.truth["polls"].values() for name, _ in polls}
        return {name for name in asked if any(word in read for word in name.split(" "))}
