"""Multi-modal mutual information decoding (M3ID).

Paper     Favero et al., CVPR 2024, arXiv:2403.14003 (no code by the authors).
Idea      The longer an answer, the less the next token depends on the picture; so subtract the prediction without the
          picture more strongly with each token.
Formula   l, l_u log-probabilities with and without the picture, t tokens written so far, g = exp(-decay (t + start))
          s = l + (1 - g) / g (l - l_u) where max l < log gate, else s = l
          with beta > 0 only tokens are kept with l >= max l + log beta
Defaults  decay 0.02, gate 0.3, beta 0, start 0 (captions; 10 for yes/no questions). With start 0 nothing is
          subtracted from the first token: where only that token counts, as in `choose` and answers of one token, use
          start=10. Decay and gate are as reported by others. Later papers' tables mostly call another method M3ID:
          gate=1, beta=0.1, with sampling.
Cost      2 rows per token instead of 1, in one pass; one more prefill, a short one.
Differs   Each row of a batch has its own gate. cap bounds the weight (1 - g) / g, which grows exponentially, to 6.4
          after 100 tokens and to 10^6, the default cap, after 691. gate=1 is no gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.options import by_model, option
from mmhall.strategies import CONTRAST, Branch, Session, Step, Strategy, contrast, other_pictures, twin_option


@dataclass(frozen=True)
class M3ID(Strategy):
    """Subtract the picture-free prediction where the model is uncertain, more with each token.

    Attributes:
        decay: Decay of the picture's influence per token, >= 0; 0 subtracts nothing.
        gate: Top probability from which nothing is subtracted, in [0, 1]; 1: no gate.
        start: Tokens counted as written before the answer, >= 0; 0 subtracts nothing from the first token.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        cap: Largest weight of the subtraction, >= 0.
        twin: 0: the strategy; a larger number: the seed of a random twin (another picture, not none, in the branch).
    """

    name: ClassVar[str] = "m3id"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})

    decay: float = by_model(0.02, low=0, tries=(0.01, 0.02, 0.04, 0.08))
    gate: float = option(0.3, low=0, high=1)
    start: int = option(0, low=0)
    beta: float = option(0.0, low=0, high=1)
    cap: float = option(1e6, low=0)
    twin: int = twin_option()

    def weight(self, written: int) -> float:
        """Return the weight of the subtraction after some tokens, (1 - g) / g, at most `cap`."""
        return math.expm1(min(self.decay * (written + self.start), math.log1p(self.cap)))

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Add the prompt without its picture as a branch; without a picture return an empty session."""
        subtracts = self.decay > 0 and self.gate > 0 and self.cap > 0
        if not has_picture(inputs) or not (subtracts or self.beta > 0):
            return Session()
        if not subtracts:
            return Session(combine=_Informed(self))
        bare = other_pictures(adapter, inputs, self.twin) if self.twin else adapter.without_image(inputs)
        return Session(branches=[Branch(bare)], combine=_Informed(self))


@dataclass(frozen=True, slots=True)
class _Informed:
    """Subtracts the picture-free prediction in uncertain rows."""

    options: M3ID

    def __call__(self, step: Step) -> Tensor:
        beta = self.options.beta
        plain = contrast(step.main, step.main, 0.0, beta)
        if not step.branches:
            return plain
        (bare,) = step.branches
        pushed = contrast(step.main, bare, self.options.weight(step.t), beta)
        uncertain = step.main.amax(dim=-1, keepdim=True).exp() < self.options.gate
        return pushed if self.options.gate == 1 else torch.where(uncertain, pushed, plain)
