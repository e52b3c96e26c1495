"""Massive activations: a few hidden dimensions with huge values at tokens that draw attention without content.

Sun et al., arXiv:2402.17762. In models with massive activations the first token of a text has them, and the hidden
states at the first position depend on that token alone: one pass over one token finds them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mmhall.attention import Op, Visit, active

if TYPE_CHECKING:
    from mmhall.adapters import Adapter

_MAGNITUDES: WeakKeyDictionary[PreTrainedModel, Tensor] = WeakKeyDictionary()


def massiveness(states: Tensor) -> Tensor:
    """Return absolute hidden states in units of their root mean square, (..., hidden size) float32."""
    x = states.float()
    return (x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + 1e-6)).abs()


def massive_threshold(adapter: Adapter, published: float, width: int) -> float:
    """Return a published threshold, scaled from the hidden size it was chosen at to that of the model.

    One dimension out of n is at most sqrt(n) root mean squares, so that a threshold means the same share of this bound
    at every hidden size: 20 at 4096 is 10 at 1024.

    Args:
        adapter: The model.
        published: Threshold in root mean squares.
        width: Hidden size that it was chosen at.
    """
    return published * math.sqrt(adapter.decoder.config.hidden_size / width)


def massive_dimensions(adapter: Adapter, threshold: float) -> tuple[int, ...]:
    """Return the dimensions with massive activations at the first token.

    Args:
        adapter: The model; the result is computed once for it, even if its weights change.
        threshold: Least mean over the middle half of the layers, in root mean squares.
    """
    decoder = adapter.decoder
    if decoder not in _MAGNITUDES:
        watch = _States()
        first = getattr(decoder.config, "bos_token_id", None) or 0
        ids = torch.tensor([[first]], device=adapter.device)
        with torch.inference_mode(), active(adapter.plan([watch])):
            decoder(input_ids=ids, use_cache=False)
        depth = len(watch.seen)
        _MAGNITUDES[decoder] = torch.stack(watch.seen[depth // 4 : max(depth // 4 + 1, depth * 3 // 4)]).mean(dim=0)
    return tuple((_MAGNITUDES[decoder] >= threshold).nonzero()[:, 0].tolist())


class _States(Op):
    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def see_states(self, visit: Visit) -> None:
        self.seen.append(massiveness(visit.states[0, 0]).cpu())
