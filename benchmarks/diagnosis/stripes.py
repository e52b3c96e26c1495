"""Stripes: earlier answer tokens that all later ones attend to, which OPERA penalises (arXiv:2311.17911).

In the last layer with self-attention, as OPERA reads it (largest weight over heads, each row divided by its sum): the
rows that predict the later half of a caption, and the columns of its earlier half, so that every row sees every column.
The figure is the mean weight of the column with most, over that of the median column: sums over captions divided by
sums over captions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter
from mmhall.attention import SELF_ATTENTION, Call, Op
from mmhall.benchmarks.diagnosis.figures import MECHANISMS, Figure, UnmeasuredError
from mmhall.results.statistics import Resampler

LEAST = 16  # tokens of a caption that is long enough for a median of eight columns


@dataclass(frozen=True, slots=True)
class Stripe:
    """The strongest column of a caption.

    Attributes:
        most: Its mean weight.
        median: The median of all columns.
        token: 0-based token of the caption that the column belongs to.
    """

    most: float
    median: float
    token: int


class StripeProbe(Op):
    """Reads the attention of the later half of answers to their earlier half, in the last self-attention layer.

    Attributes:
        stripes: By number of the prompt in the batch; without answers that are too short.
    """

    def __init__(self, adapter: Adapter, prompt: int, lengths: Sequence[int]) -> None:
        """Choose the layer, the last one with self-attention.

        Args:
            adapter: The model.
            prompt: Length of the prompts in positions, padding included.
            lengths: Tokens of each answer.
        """
        attending = [layer for layer, kind in enumerate(adapter.kinds) if kind in SELF_ATTENTION]
        self.layers = frozenset(attending[-1:])
        self._prompt, self._lengths = prompt, lengths
        self.stripes: dict[int, Stripe] = {}

    def rows(self, call: Call) -> LongTensor | None:
        """Return the rows that predict the answers; none in a layer that gets only the newest row."""
        last, width = call.count - 1, max(self._lengths)
        if last < width:
            return None
        return torch.arange(last - width, last, device=call.device)  # type: ignore[return-value]

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Find the strongest column of each answer."""
        weights = probs.amax(dim=1)
        weights = weights / weights.sum(dim=-1, keepdim=True)  # (B, S, K)
        first = self._prompt - call.offset
        for number, length in enumerate(self._lengths):
            if length >= LEAST:
                half = length // 2
                self.stripes[number] = find_stripe(weights[number, half:length, first : first + half])


def find_stripe(weights: Tensor) -> Stripe:
    """Return the strongest column.

    Columns with mean weights 0.1, 0.6 and 0.2: the second one, 0.6, with a median of 0.2.

    Args:
        weights: (rows, columns).
    """
    columns = weights.mean(dim=0)
    return Stripe(float(columns.max()), float(np.median(columns.cpu().numpy())), int(columns.argmax()))


def stripe_figure(stripes: Sequence[Stripe | None], words: Sequence[str], draws: Resampler) -> Figure:
    """Return how far the strongest column stands out.

    Args:
        stripes: Of each caption; None: too short.
        words: Text of each caption's token with the strongest column; "" for those that are too short.
        draws: Bootstrap draws of the captions.

    Raises:
        UnmeasuredError: No caption is long enough.
    """
    found = [stripe for stripe in stripes if stripe is not None]
    if not found:
        raise UnmeasuredError(f"no caption has {LEAST} tokens, or no layer attends to the sequence")
    over = np.array([0.0 if stripe is None else stripe.most for stripe in stripes])
    under = np.array([0.0 if stripe is None else stripe.median for stripe in stripes])
    common = ", ".join(f"{word!r} ({n / len(found):.0%})" for word, n in Counter(filter(None, words)).most_common(3))
    return Figure(
        "stripe_ratio",
        MECHANISMS,
        "stripes: top column over median, last layer",
        draws.estimate(over, under),
        percent=False,
        note=f"{len(found)} captions of {LEAST} tokens or more; most often the column of {common}",
    )
