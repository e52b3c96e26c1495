"""Which image tokens show an object: patches of the picture under the boxes of its annotation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmhall.adapters import Request
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.data.pictures import Corners
from mmhall.benchmarks.diagnosis.asking import Asker
from mmhall.benchmarks.diagnosis.figures import UnmeasuredError
from mmhall.images import open_image


def coverage(edges: Tensor, boxes: Sequence[Corners]) -> Tensor:
    """Return which part of each patch some boxes cover, (N,) in [0, 1]; NaN where a patch has no place.

    Overlapping boxes count twice, but a patch at most whole.

    Args:
        edges: Left, top, right, bottom of each patch, fractions of the picture, (N, 4).
        boxes: The boxes, in the same unit.
    """
    covered = torch.zeros(len(edges), dtype=edges.dtype)
    area = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
    for left, top, right, bottom in boxes:
        width = (edges[:, 2].clamp_max(right) - edges[:, 0].clamp_min(left)).clamp_min(0)
        height = (edges[:, 3].clamp_max(bottom) - edges[:, 1].clamp_min(top)).clamp_min(0)
        covered = covered + width * height / area
    return covered.clamp_max(1.0)


class Places:
    """The places of image tokens, found once for each size of picture."""

    def __init__(self, asker: Asker) -> None:
        """Start without any."""
        self._asker, self._edges = asker, dict[tuple[int, int], Tensor]()

    def of(self, item: Item) -> Tensor:
        """Return left, top, right, bottom of the patches of an item's picture, (N, 4).

        Raises:
            UnmeasuredError: The model's image tokens have no places.
        """
        picture = open_image(self._asker.path(item))
        if picture.size not in self._edges:
            adapter, request = self._asker.lvlm.adapter, Request(item.prompt, (picture,))
            edges = adapter.places(request, adapter.inputs([request])).edges
            if edges is None:
                raise UnmeasuredError("the model's image tokens have no places in the picture")
            self._edges[picture.size] = edges
        return self._edges[picture.size]


def boxes_of(asker: Asker, item: Item) -> Sequence[Corners]:
    """Return the boxes of the object that an item asks about, in fractions of the picture; () without any."""
    return asker.pictures[str(item.picture)].boxes.get(item.truth["object"], ())
