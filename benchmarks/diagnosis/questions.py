"""Yes/no questions: could another threshold do better, and are present objects told from likely absent ones?

Headroom   Accuracy of POPE's adversarial setting with the best constant added to the yes/no score, fitted on half of
           the pictures and applied to the other, each way, minus the accuracy of the answers. What a method gains
           up to this much may be a shifted threshold.
Partners   AUROC of the yes/no score (`evidence/threshold.py`): questions about each present object against questions
           about each likely absent one. Likely: on drawn scenes, the partners of what is there (`scenes/world.py`), on
           hard ones the companions that it has in such a place (`scenes/companions.py`); on other data, what POPE's
           adversarial setting asks for: the absent objects that occur most often together with what is there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmhall.benchmarks.base import Item, series
from mmhall.benchmarks.data.pictures import Picture, PictureSet
from mmhall.benchmarks.diagnosis.figures import HALLUCINATION, Figure, UnmeasuredError, of_metric
from mmhall.benchmarks.evidence.threshold import TUNED, shifted_counts, stored_scores
from mmhall.benchmarks.pope import SUFFIX, Pope, question_about
from mmhall.benchmarks.rules.yes_bias import COUNTS, criterion
from mmhall.benchmarks.scenes.companions import COMPANIONS, goes_with
from mmhall.benchmarks.scenes.world import PARTNERS, PLACES
from mmhall.errors import DataError
from mmhall.results.separation import Separation
from mmhall.results.statistics import Resampler
from mmhall.results.store import Row

SETTING = "adversarial"
SOURCES = {
    "": "what most often occurs with what is there",
    "usual": "partners of what is there",
    "hard": "companions, in this place, of what is there",
}
"""Kind of drawn scenes to what their likely absent objects are; "": other pictures."""
NO_LIKELY = "no picture lacks an object that goes with what is there"
Answers = Mapping[str, Row]
"""Id of a question to its answer."""


@dataclass(frozen=True, slots=True)
class Questions:
    """The yes/no questions of a diagnosis; one asked for two reasons has one id.

    Attributes:
        pope: The items of POPE's adversarial setting; empty if it cannot be made of the pictures.
        why_no_pope: Why it is empty.
        present: A question about each present object.
        likely: A question about each likely absent object.
        other: A question about one other absent object of each picture.
        source: What the likely objects are, in words.
    """

    pope: tuple[Item, ...]
    why_no_pope: str
    present: tuple[Item, ...]
    likely: tuple[Item, ...]
    other: tuple[Item, ...]
    source: str

    def everything(self) -> list[Item]:
        """Return every question once."""
        return list({item.id: item for item in (*self.pope, *self.present, *self.likely, *self.other)}.values())


def make_questions(pictures: PictureSet, seed: int) -> Questions:
    """Make the questions about pictures with known objects.

    Args:
        pictures: The pictures.
        seed: Seed of POPE's questions and of the other absent objects.
    """
    pope, why = _pope(pictures, seed)
    likely = likely_absent(pictures, pope)
    rng = random.Random(f"diagnosis/{seed}")
    present, plausible, other = [], [], []
    for picture in pictures.pictures:
        present += [_question(picture.id, name, True) for name in picture.objects]
        plausible += [_question(picture.id, name, False) for name in likely[picture.id]]
        rest = sorted(set(pictures.categories) - set(picture.objects) - set(likely[picture.id]))
        if rest and picture.objects:
            other.append(_question(picture.id, rng.choice(rest), False))
    source = SOURCES.get(pictures.drawn, SOURCES[""])
    return Questions(pope, why, tuple(present), tuple(plausible), tuple(other), source)


def likely_absent(pictures: PictureSet, pope: Sequence[Item]) -> dict[str, list[str]]:
    """Return the likely absent objects of each picture, by its id.

    Args:
        pictures: The pictures.
        pope: Items of POPE's adversarial setting, whose absent objects are used where the pictures are not drawn.
    """
    if pictures.drawn in GO_WITH:
        return {p.id: sorted(GO_WITH[pictures.drawn](p) - set(p.objects)) for p in pictures.pictures}
    asked: dict[str, list[str]] = {p.id: [] for p in pictures.pictures}
    for item in pope:
        if item.truth["label"] == "no":
            asked[str(item.picture)].append(item.truth["object"])
    return asked


def _partners(picture: Picture) -> set[str]:
    return {partner for name in picture.objects for partner in PARTNERS[name]}


def _companions(picture: Picture) -> set[str]:
    place = next(place for place in PLACES if place.name == picture.place)
    return {COMPANIONS[name] for name in picture.objects if goes_with(name, place)}


GO_WITH: dict[str, Callable[[Picture], set[str]]] = {"usual": _partners, "hard": _companions}
"""Kind of drawn scenes to what goes with the objects of one, there or not."""


def headroom(questions: Questions, answers: Answers) -> Iterator[Figure]:
    """Yield accuracy, share of yes and c in POPE's adversarial setting, and what the best threshold would add.

    Raises:
        UnmeasuredError: There are no such questions, no scores, or pictures on one side of the halves only.
    """
    if not questions.pope:
        raise UnmeasuredError(questions.why_no_pope)
    pope, rows = Pope(), [answers[item.id] for item in questions.pope]
    metrics = {metric.name: metric for metric in pope.metrics}
    counts = pope.counts(questions.pope, rows)
    draws = Resampler([item.cluster for item in questions.pope])
    yield of_metric("pope_accuracy", metrics["accuracy"], "adversarial POPE: accuracy", counts, draws)
    yield of_metric("pope_yes", metrics["yes ratio"], "adversarial POPE: share of yes", counts, draws)
    sums = [series(counts, {name: 1}) for name in COUNTS]
    c = draws.estimate_of(criterion, sums)
    yield Figure("criterion", HALLUCINATION, "adversarial POPE: c, above 0 leans to no", c, percent=False)
    shifted = shifted_counts(pope, questions.pope, rows, {"": rows})
    if not shifted:
        raise UnmeasuredError("the best threshold needs yes/no scores of at least two pictures")
    terms = [*metrics["accuracy"].terms(shifted[""][TUNED]), *metrics["accuracy"].terms(counts)]
    estimate = draws.estimate_of(lambda over, n, base, m: over / n - base / m, terms)
    yield Figure("headroom", HALLUCINATION, "adversarial POPE: best threshold adds", estimate)


def partner_auroc(questions: Questions, answers: Answers) -> Figure:
    """Return the AUROC of the yes/no score of present objects against likely absent ones.

    Raises:
        UnmeasuredError: There are no likely absent objects, or no scores.
    """
    items = (*questions.present, *questions.likely)
    if not questions.likely:
        raise UnmeasuredError(questions.why_no_pope or NO_LIKELY)
    scores = stored_scores([answers[item.id] for item in items])
    if scores is None:
        raise UnmeasuredError("the model's tokenizer has no single tokens for yes and no")
    draws = Resampler([item.cluster for item in items])
    positive = np.array([item.truth["label"] == "yes" for item in items])
    estimate = Separation(draws, np.arange(len(items)), positive).auroc(scores).estimate()
    note = f"{len(questions.present)} present, {len(questions.likely)} absent: {questions.source}"
    return Figure("partner_auroc", HALLUCINATION, "AUROC of yes, present or likely absent", estimate, note=note)


def _pope(pictures: PictureSet, seed: int) -> tuple[tuple[Item, ...], str]:
    """Return the items of the adversarial setting; without any, also the reason."""
    try:
        items = Pope().items(pictures, seed)
    except DataError as error:
        return (), str(error)
    return tuple(item for item in items if SETTING in item.groups), ""


def _question(picture: str, name: str, present: bool) -> Item:
    truth = {"label": "yes" if present else "no", "object": name, "visibility": ""}
    return Item(f"{picture}/{name}", picture, question_about(name) + SUFFIX, (), truth)
