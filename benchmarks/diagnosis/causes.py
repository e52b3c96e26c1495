"""Why the model hallucinates: from what goes together, or for other reasons; and does it look at all?

Captions    The share of likely absent objects that a caption names, against that of all other absent categories.
Questions   The share of yes to likely absent objects, against one other absent object of each picture.
Grey        The share of yes to present objects, with the picture and with a grey one in its place; and the share of
            captions that differ from that of a grey picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.data.pictures import PictureSet
from mmhall.benchmarks.diagnosis.captions import Caption
from mmhall.benchmarks.diagnosis.figures import CAUSES, Figure
from mmhall.benchmarks.diagnosis.questions import Answers, Questions
from mmhall.benchmarks.rules.yesno import parse_strict
from mmhall.results.statistics import Resampler


def in_captions(
    captions: Sequence[Caption], pictures: PictureSet, likely: Mapping[str, Sequence[str]]
) -> Iterator[Figure]:
    """Yield how often captions name likely absent objects, and other absent categories.

    Args:
        captions: The captions.
        pictures: The pictures, with all categories.
        likely: Likely absent objects by picture.
    """
    counts = []
    for caption in captions:
        present, named = set(caption.item.truth["objects"]), {mention.name for mention in caption.mentions}
        partners = set(likely[str(caption.item.picture)])
        others = set(pictures.categories) - partners - present
        counts.append((len(named & partners), len(partners), len(named & others), len(others)))
    sums = np.array(counts, np.float64).T
    draws = Resampler([caption.item.cluster for caption in captions])
    yield Figure("likely_named", CAUSES, "likely absent objects that captions name", draws.estimate(*sums[:2]))
    yield Figure("other_named", CAUSES, "other absent objects that captions name", draws.estimate(*sums[2:]))


def in_answers(questions: Questions, answers: Answers) -> Iterator[Figure]:
    """Yield the share of yes to likely absent, other absent and present objects."""
    for key, title, items in (
        ("likely_yes", "yes to a likely absent object", questions.likely),
        ("other_yes", "yes to another absent object", questions.other),
        ("present_yes", "yes to a present object", questions.present),
    ):
        if items:
            yield _yes_share(key, title, items, [answers[item.id].text for item in items])


def of_grey(items: Sequence[Item], texts: Sequence[str]) -> Figure:
    """Return the share of yes to present objects where the picture is grey.

    Args:
        items: Questions about present objects.
        texts: Answers to them, before a grey picture.
    """
    return _yes_share("grey_yes", "yes to the same before a grey picture", items, texts)


def unlike_grey(captions: Sequence[Caption], grey: str) -> Figure:
    """Return the share of captions that differ from the caption of a grey picture."""
    differ = np.array([caption.answer.text != grey for caption in captions], np.float64)
    draws = Resampler([caption.item.cluster for caption in captions])
    title = "captions unlike a grey picture's"
    return Figure("unlike_grey", CAUSES, title, draws.estimate(differ, np.ones(len(differ))), note=f"it says: {grey}")


def _yes_share(key: str, title: str, items: Sequence[Item], texts: Sequence[str]) -> Figure:
    yes = np.array([parse_strict(text) == "yes" for text in texts], np.float64)
    draws = Resampler([item.cluster for item in items])
    return Figure(key, CAUSES, title, draws.estimate(yes, np.ones(len(yes))))
