"""A small strategy that learns: one direction between what faithful and hallucinated texts leave in a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mmhall.attention import Op
from mmhall.fitting import read_text
from mmhall.options import by_model, option
from mmhall.strategies import Session
from mmhall.strategies._directions import mean_difference, shuffled_range
from mmhall.strategies._learned import Fit, LearnedStrategy


class Last(Op):
    """Keeps what enters a layer at the last row, (D,)."""

    def __init__(self, layer):
        self.layers, self.state = frozenset({layer}), None

    def see_states(self, visit):
        self.state = visit.states[0, -1].float().clone()


@dataclass(frozen=True)
class Lean(LearnedStrategy):
    """Leans towards tokens that point where faithful texts do.

    Attributes:
        alpha: How far; 0 is plain greedy.
        layer: Whose input is read.
    """

    name: ClassVar[str] = "lean"

    alpha: float = option(4.0, low=0)
    layer: int = by_model(2, low=0)

    def fit(self, adapter, pairs, seed):
        def states(texts):
            return torch.stack([self._state(adapter, pair, text) for pair, text in zip(pairs, texts, strict=True)])

        faithful = states([pair.faithful for pair in pairs])
        hallucinated = states([pair.hallucinated for pair in pairs])
        found = shuffled_range(faithful - hallucinated, seed)
        found.check(f"layer {self.layer}")
        return Fit({"direction": mean_difference(faithful, hallucinated)}, {f"layer {self.layer}": found.record()})

    def _state(self, adapter, pair, text):
        last = Last(self.layer)
        read_text(adapter, pair.picture, pair.prompt, text, [last])
        return last.state

    def prepare(self, adapter, inputs):
        direction = self.learned(adapter).tensors["direction"].to(adapter.device)
        if self.alpha == 0:
            return Session()
        leaning = adapter.model.get_output_embeddings().weight.float() @ (direction / direction.norm())
        return Session(combine=lambda step: step.main + self.alpha * leaning)
