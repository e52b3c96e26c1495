"""Adaptive intervening on attention to generated text (AdaIAT).

Paper     arXiv:2603.04908, CVPR 2026; XianguiKang/AdaIAT.
Idea      As `iat`, but only where attention to the answer is as low as at hallucinated words, and in each head as
          strongly as true and hallucinated words differ there.
Formula   newest row, after softmax, in each chosen layer: m_h is the mean weight of the answer's columns in head h;
          where the sum of m_h over heads is below theta, weights of the answer's columns *= 1 + alpha (M_h - 1), and
          the row is renormalised
          theta = t + beta (r - t); r and t the sum at true and at hallucinated words, M_h the ratio of m_h at true to
          that at hallucinated words: `mmhall fit adaiat` measures all three
Defaults  alpha 6, beta 0.5; LLaVA-1.5-7B layers 5 to 17 of 32, in other models the same part of the depth. The authors
          give layers 4 to 15, alpha 9, beta 0.25 for Qwen2.5-VL.
Cost      Attention weights of the newest row are computed explicitly in the chosen layers. Nothing while the prompt is
          read: there is no answer yet, and the first token is that of plain decoding.
Compared  factor: paper alpha M; released code 1 + alpha (M - 1), so that M = 1 changes nothing; ours as released, but a
          factor below 0 counts as 0 (in theirs weights become negative)
          sum over heads: released code also over the batch; ours for each row
          words of the fit: the authors' own greedy captions, labelled by CHAIR, about 22000 true and 9500 hallucinated
          object tokens; ours words in which a faithful and a hallucinated text about a picture differ
          rows of the fit: not known; ours the row of each word's last token. The row before the word is the same in
          both texts of a pair, and could not tell them apart.
          alpha: released code 0.7 unless it is given; ours 6, the paper's
          baseline: the authors' is greedy, without a plausibility cut-off
Differs   Weights are edited in float32. Masked columns stay masked, and do not count in the means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.analysis import measure_words, word_attention
from mmhall.attention import SELF_ATTENTION, AnswerColumns, Call
from mmhall.options import by_model
from mmhall.strategies import (
    DifferingWords,
    Fit,
    LearnedStrategy,
    Pair,
    RowStrategy,
    Session,
    Steer,
    layers_option,
    select_layers,
    twin_generator,
    twin_option,
    usable_heads,
)


@dataclass(frozen=True)
class AdaIAT(LearnedStrategy):
    """Raise attention to the answer so far where it is low, in each head by a measured ratio.

    Attributes:
        alpha: Strength, >= 0; 0 does not change attention.
        beta: Place of the threshold between hallucinated (0) and true words (1), in [0, 1].
        layers: Layers in which attention is raised.
        twin: 0: the strategy; a larger number: the seed of a random twin (which head of a layer has which ratio).
    """

    name: ClassVar[str] = "adaiat"
    claims: ClassVar[frozenset[str]] = RowStrategy.claims
    adjustable: ClassVar[frozenset[str]] = frozenset({"alpha", "beta", "layers"})
    published: ClassVar = {("llava", 32): {"alpha": 6.0, "beta": 0.5, "layers": "5:18"}}

    alpha: float = by_model(6.0, low=0, tries=(2.0, 4.0, 6.0, 9.0))
    beta: float = by_model(0.5, low=0, high=1, tries=(0.25, 0.5, 0.75))
    layers: str = layers_option("15%:55%", tries=("15%:55%", "15%:40%", "40%:70%"))
    twin: int = twin_option()

    def fit(self, adapter: Adapter, pairs: Sequence[Pair], seed: int) -> Fit:
        """Measure the attention to the answer at true and at hallucinated words."""

        def attention(inputs: Inputs, text: DifferingWords) -> Tensor:
            length, count = inputs["input_ids"].shape[1], len(text.ids)
            masses = word_attention(adapter, inputs, text, torch.arange(length + count) >= length)
            return masses / torch.tensor([word.tokens[-1] + 1 for word in text.words])[:, None, None]

        values = measure_words(adapter, pairs, attention)
        true, hallucinated = values.faithful.mean(dim=0), values.hallucinated.mean(dim=0)
        ratio = torch.where(hallucinated > 0, true / hallucinated, 1.0)
        read = ratio[usable_heads(adapter, SELF_ATTENTION, whole=True)]
        numbers = {
            "attention to the answer": values.check("the attention of heads to the answer", seed),
            "ratio": {
                "mean": float(read.mean()),
                "low": float(read.min()),
                "below 1": float((read < 1).float().mean()),
            },
        }
        return Fit({"true": true.sum(dim=1), "hallucinated": hallucinated.sum(dim=1), "ratio": ratio}, numbers)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Raise the columns of the answer where they are attended to little; without a picture: an empty session."""
        tensors = self.learned(adapter).tensors
        if not has_picture(inputs) or self.alpha == 0:
            return Session()
        layers = select_layers(adapter, self, "layers", self.layers, SELF_ATTENTION, whole=True)
        thresholds = torch.lerp(tensors["hallucinated"], tensors["true"], self.beta)
        ratio = shuffled(tensors["ratio"], self.twin) if self.twin else tensors["ratio"]
        factors = (1 + self.alpha * (ratio - 1)).clamp_min(0.0)
        return Session(ops=[_RaiseAnswer(layers, inputs["input_ids"].shape[1], thresholds, factors)])


class _RaiseAnswer(Steer):
    """Raises the newest row's weights of the answer's columns where they are low."""

    first_row = -1

    def __init__(self, layers: frozenset[int], length: int, thresholds: Tensor, factors: Tensor) -> None:
        super().__init__(layers)
        self._answer, self._thresholds, self._factors = AnswerColumns(length), thresholds, factors

    def rows(self, call: Call) -> LongTensor | None:
        return call.newest if call.step else None

    def edit_probs(self, call: Call, rows: LongTensor, probs: Tensor) -> Tensor:
        first, count = self._answer.first(call), self._answer.count(call, rows)
        factors = self._factors[call.layer][:, None, None].to(probs.device)
        return raise_answer(probs, first, count, self._thresholds[call.layer].to(probs.device), factors)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return the factor of each head."""
        acts = torch.tensor([layer in (self.layers or ()) for layer in range(depth)])
        return {"factors of the answer": self._factors.masked_fill(~acts[:, None], torch.nan)}


def raise_answer(probs: Tensor, first: int, count: Tensor, threshold: Tensor, factors: Tensor) -> Tensor:
    """Multiply the weights of the answer's columns in place, and renormalise, where heads attend to them too little.

    Weights (0.5, 0.2, 0.2, 0.1), the last two of the answer, with mean 0.15; below a threshold of 0.2, a factor of 4
    gives (0.2632, 0.1053, 0.4211, 0.2105).

    Args:
        probs: (B, H, R, K); the weights of each row sum to 1.
        first: First column of the answer.
        count: Number of the answer's columns that each row sees, (B|1, 1|H, R, 1).
        threshold: Least sum over heads of the mean weight that leaves a row as it is, a scalar.
        factors: (H, 1, 1).
    """
    own = probs[..., first:]
    mass = own.sum(dim=-1, keepdim=True)
    low = (mass / count).sum(dim=1, keepdim=True) < threshold
    factors = torch.where(low, factors, 1.0)
    own.mul_(factors)
    return probs.div_(1 + (factors - 1) * mass)


def shuffled(ratio: Tensor, twin: int) -> Tensor:
    """Exchange the ratios of each layer among its heads at random, (layers, heads)."""
    orders = (torch.randperm(ratio.shape[1], generator=twin_generator(twin, f"layer {i}")) for i in range(len(ratio)))
    return torch.stack([row[order] for row, order in zip(ratio, orders, strict=True)])
