"""Intervening on attention to generated text (IAT).

Paper     arXiv:2603.04908, CVPR 2026; XianguiKang/AdaIAT.
Idea      Tokens that name what the picture shows attend more to the answer so far than hallucinated ones do: raise
          attention to the answer, not to the picture.
Formula   scores before softmax, newest row, all heads of the chosen layers: s_k += alpha |s_k| for every column k of
          the answer, that of the row itself included
Defaults  alpha 0.8; LLaVA-1.5-7B layers 5 to 17 of 32. In other models the same part of the depth.
Cost      Attention weights of the newest row are computed explicitly in the chosen layers. Nothing while the prompt is
          read: there is no answer yet, and the first token is that of plain decoding.
Compared  columns: paper and released code all tokens after the prompt; ours the same, found from the prompt's length
          (theirs: fixed positions)
          alpha: paper 0.8; released code 0.7 unless it is given; ours 0.8
          layers: paper 5 to 17; released code the same; ours the same. The authors report that wider ranges collapse.
          baseline: the authors' is greedy, without a plausibility cut-off
Differs   Each row of a batch has its own answer. Masked columns stay masked. `adaiat` is the adaptive form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import SELF_ATTENTION, AnswerColumns, Call, Columns
from mmhall.options import by_model
from mmhall.strategies import (
    RowStrategy,
    Session,
    Steer,
    Strategy,
    layers_option,
    rank_columns,
    select_layers,
    twin_option,
)


@dataclass(frozen=True)
class IAT(Strategy):
    """Raise attention to the answer so far.

    Attributes:
        alpha: Strength of the increase, >= 0; 0 does not change attention.
        layers: Layers in which attention is raised.
        twin: 0: the strategy; a larger number: the seed of a random twin (as many columns of the prompt as the answer
            has are raised instead).
    """

    name: ClassVar[str] = "iat"
    claims: ClassVar[frozenset[str]] = RowStrategy.claims
    published: ClassVar = {("llava", 32): {"alpha": 0.8, "layers": "5:18"}}

    alpha: float = by_model(0.8, low=0, tries=(0.2, 0.4, 0.8, 1.2))
    layers: str = layers_option("15%:55%", tries=("15%:55%", "15%:40%", "40%:70%"))
    twin: int = twin_option()

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Raise the columns of the answer; without a picture return an empty session."""
        if not has_picture(inputs) or self.alpha == 0:
            return Session()
        layers = select_layers(adapter, self, "layers", self.layers, SELF_ATTENTION)
        length = inputs["input_ids"].shape[1]
        if self.twin:
            return Session(ops=[_RaisePrompt(layers, length, self.alpha, rank_columns(adapter, inputs, self.twin))])
        return Session(ops=[_RaiseAnswer(layers, length, self.alpha)])


class _RaiseAnswer(Steer):
    """Raises the newest row's scores of the answer's columns."""

    first_row = -1

    def __init__(self, layers: frozenset[int], length: int, alpha: float) -> None:
        super().__init__(layers)
        self._answer, self._alpha = AnswerColumns(length), alpha

    def rows(self, call: Call) -> LongTensor | None:
        return call.newest if call.step else None

    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        own = scores[..., self._answer.first(call) :]
        own.add_(own.abs(), alpha=self._alpha)
        return scores


class _RaisePrompt(_RaiseAnswer):
    """Raises as many columns of the prompt, drawn at random."""

    def __init__(self, layers: frozenset[int], length: int, alpha: float, rank: Tensor) -> None:
        super().__init__(layers, length, alpha)
        self._length = length
        self._order = Columns(length - rank.float())  # 0 where no column is drawn, and in the answer

    def edit_scores(self, call: Call, rows: LongTensor, scores: Tensor) -> Tensor:
        count = self._answer.count(call, rows)
        raised = self._order(call) > (self._length - count).clamp_min(0.0)
        return torch.addcmul(scores, scores.abs(), self._alpha * raised.float())
