"""Gaze: does the question's object word look at its object? GIFT and its like build on it (arXiv:2510.22067).

Row      That of the object's word in "Is there a ... in the image?" (its last token), for present objects with boxes.
Lift     In one layer, mean over heads: the part of the row's attention to the picture that is on the object's patches,
         over the part of the picture's patches that they are; sums over questions divided by sums over questions. A
         patch that a box covers in part counts in part.
Model    The best layer of the middle half, which is chosen anew in every bootstrap draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import LongTensor, Tensor

from mmhall.analysis import mark_words, read_prompts
from mmhall.attention import Call, Op
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.diagnosis.asking import Asker
from mmhall.benchmarks.diagnosis.figures import MECHANISMS, Figure, UnmeasuredError
from mmhall.benchmarks.diagnosis.places import Places, boxes_of, coverage
from mmhall.benchmarks.run.runner import batches
from mmhall.results.statistics import Array, Resampler, ratio


@dataclass(frozen=True, slots=True)
class Look:
    """What the row of an object's word attends to.

    Attributes:
        item: The question.
        expected: Share of the picture's patches that the object covers.
        found: Share of the attention to the picture that lies on them, by layer; without layers in which the row pays
            none to it.
    """

    item: Item
    expected: float
    found: Mapping[int, float]


class GazeProbe(Op):
    """Reads the attention of one row of each prompt to the picture.

    Attributes:
        attention: By layer, the attention to each image token of each prompt, mean over heads, (N,) each.
    """

    def __init__(self, image: Tensor, rows: Tensor) -> None:
        """Choose the rows.

        Args:
            image: Image positions, (B, T) bool.
            rows: Position of each prompt's row, (B,).
        """
        self._image, self._rows = image, rows
        self._positions = torch.unique(rows)
        self.attention: dict[int, list[Tensor]] = {}

    def rows(self, call: Call) -> LongTensor | None:
        """Return the chosen rows of all prompts; none in a layer that does not get them all."""
        rows = call.rows_at(self._positions)
        return rows if len(rows) == len(self._positions) else None

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Record a layer."""
        own = torch.searchsorted(self._positions, self._rows).tolist()
        self.attention[call.layer] = []
        for number, row in enumerate(own):
            columns = self._image[number].nonzero()[:, 0].to(probs.device) - call.offset
            mean = probs[number, :, row].mean(dim=0)
            self.attention[call.layer].append(mean[columns.clamp_min(0)].masked_fill(columns < 0, 0.0).cpu())


def read_gaze(asker: Asker, items: Sequence[Item]) -> list[Look]:
    """Read where the object words of questions look.

    Args:
        asker: The model and its pictures.
        items: Questions about present objects.

    Raises:
        UnmeasuredError: The data has no boxes, or the model's image tokens have no places.
    """
    adapter = asker.lvlm.adapter
    if not adapter.image_in_sequence:
        raise UnmeasuredError("the model attends to the picture in layers of their own, where words do not look apart")
    boxed = [item for item in items if boxes_of(asker, item)]
    if not boxed:
        raise UnmeasuredError("the data has no boxes of objects")
    places = Places(asker)
    looks: list[Look] = []
    for batch in batches(boxed, asker.batch_size):
        looks += _read_batch(asker, batch, places)
        asker.progress(len(batch))
    if not looks:
        raise UnmeasuredError("no object's word was found in its question")
    return looks


def gaze_figure(looks: Sequence[Look], depth: int) -> Figure:
    """Return the lift of the best middle layer.

    Args:
        looks: What object words attend to.
        depth: Number of decoder layers.

    Raises:
        UnmeasuredError: No layer in the middle was read.
    """
    layers = sorted(set.intersection(*(set(look.found) for look in looks)))
    middle = [layer for layer in layers if layer in range(depth // 4, max(depth // 4 + 1, depth * 3 // 4))]
    if not middle:
        raise UnmeasuredError("no layer in the middle attends to the picture from the words of the question")
    draws = Resampler([look.item.cluster for look in looks])
    under = np.array([look.expected for look in looks])
    over = {layer: np.array([look.found[layer] for look in looks]) for layer in layers}
    of_layer = {layer: draws.estimate(values, under) for layer, values in over.items()}
    best = max(middle, key=lambda layer: of_layer[layer].value or 0.0)
    return Figure(
        "gaze_lift",
        MECHANISMS,
        "gaze: the object's word on its object, lift",
        draws.estimate_of(largest, [*(over[layer] for layer in middle), under]),
        percent=False,
        layers=of_layer,
        note=f"layer {best}, the best of layers {middle[0]} to {middle[-1]}; {len(looks)} questions, on objects that "
        f"cover {under.mean():.1%} of the picture on average",
        short="gaze lift",
    )


def largest(*sums: Array) -> Array:
    """Return the largest of several ratios to the last sum, element by element."""
    values: Array = np.max([ratio(one, sums[-1]) for one in sums[:-1]], axis=0)
    return values


def _read_batch(asker: Asker, items: Sequence[Item], places: Places) -> list[Look]:
    """Read where the object words of a batch of questions look."""
    adapter, inputs = asker.lvlm.adapter, asker.inputs(items)
    image, named = adapter.image_mask(inputs["input_ids"]), [word for i in items for word in i.truth["object"].split()]
    words = mark_words(adapter, inputs, adapter.query_mask(inputs), named)
    positions = torch.arange(words.shape[1], device=words.device)
    last = (words * positions).amax(dim=1)  # 0: the word was not found
    probe = GazeProbe(image, last)
    with torch.inference_mode():
        read_prompts(adapter, inputs, [probe])
    looks = []
    for number, item in enumerate(items):
        if not last[number]:
            continue
        covered = coverage(places.of(item), boxes_of(asker, item))
        placed = ~covered.isnan()
        shares = {layer: _share(of[number][placed], covered[placed]) for layer, of in probe.attention.items()}
        found = {layer: share for layer, share in shares.items() if share is not None}
        looks.append(Look(item, float(covered[placed].mean()), found))
    return looks


def _share(attention: Tensor, covered: Tensor) -> float | None:
    """Return the share of attention that lies on what is covered; None without any."""
    whole = float(attention.sum())
    return float((attention * covered).sum()) / whole if whole > 0 else None
