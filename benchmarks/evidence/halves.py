"""Two halves of the pictures, for what is chosen on one and measured on the other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from mmhall.benchmarks.base import Item


def halves(items: Sequence[Item]) -> list[list[int]]:
    """Return the 0-based items of each half, by a hash of their pictures; an empty half is left out."""
    sides = [hashlib.sha256(item.cluster.encode("utf-8", "surrogatepass")).digest()[0] % 2 for item in items]
    split = [[index for index, own in enumerate(sides) if own == side] for side in (0, 1)]
    return [half for half in split if half]
