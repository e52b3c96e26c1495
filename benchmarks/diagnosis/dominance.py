"""Text or picture: how a caption's attention is divided between the two, for their numbers of tokens (MDI and AEI).

MDI compares the attention that a text token of the prompt gets with that of an image token, AEI of the text its share
of attention with its share of tokens (arXiv:2508.10552; `mmhall.analysis`, which says what is text): above 1, text gets
more. Early, middle and late: two layers each. A caption's figure is a ratio of sums over its rows; the model's is the
mean over captions; those in which the picture gets no attention are left out. The first
text position, mostly an attention sink, can alone raise MDI above 10: without it, MDI of the middle layers is a figure
of its own, which says whether text dominates, and that of the others stands in the note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mmhall.analysis import GROUPS, ModalityDominance
from mmhall.benchmarks.diagnosis.figures import ATTENTION, Figure, UnmeasuredError
from mmhall.results.statistics import Array, Estimate, Resampler

TITLES = {"mdi": "MDI, text over picture", "aei_text": "AEI of the text"}


def dominance_figures(found: Sequence[ModalityDominance], draws: Resampler) -> Iterator[Figure]:
    """Yield MDI and AEI of early, middle and late layers, and MDI without the first text position of the middle ones.

    Those of every layer stand with the middle ones.

    Args:
        found: Attention to text and picture of each caption.
        draws: Bootstrap draws of the captions.

    Raises:
        UnmeasuredError: The model attends to pictures in layers of their own.
    """
    if not found or not all(one.image_tokens for one in found):
        raise UnmeasuredError("the model attends to the picture in layers of their own, beside no text")
    groups = [one.groups() for one in found]
    bare = [one.without_first().groups() for one in found]
    for index, title in TITLES.items():
        for group in GROUPS:
            middle = group == "middle"
            without = _mean([one[group][index] for one in bare], draws)
            noted = index == "mdi" and not middle and without.value is not None
            yield Figure(
                f"{index}_{group}",
                ATTENTION,
                f"{title}: {group} layers",
                _mean([one[group][index] for one in groups], draws),
                percent=False,
                layers=_by_layer(found, index, draws) if middle else {},
                note=f"without the first text position {without.value:.2f}" if noted else "",
                short=index.partition("_")[0].upper() if middle else "",
            )
            if index == "mdi" and middle:
                yield Figure(
                    "mdi_middle_bare",
                    ATTENTION,
                    "MDI without the first token: middle layers",
                    without,
                    percent=False,
                    note="without the first text position, mostly an attention sink",
                )


def _by_layer(found: Sequence[ModalityDominance], index: str, draws: Resampler) -> dict[int, Estimate]:
    values = np.stack([getattr(one, index).double().numpy() for one in found])
    return {layer: _mean(list(values[:, at]), draws) for at, layer in enumerate(found[0].layers)}


def _mean(values: Sequence[float | None] | Sequence[Array], draws: Resampler) -> Estimate:
    """Estimate the mean of the values that are there."""
    known = np.array([np.nan if value is None else value for value in values], np.float64)
    there = np.isfinite(known)
    return draws.estimate(np.where(there, known, 0.0), there.astype(np.float64))
