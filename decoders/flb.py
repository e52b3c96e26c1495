"""First-logit boosting (FLB).

Paper     "First logit boosting", CVPR 2026; jiwooha20/FLB.
Idea      The first token of an answer is predicted right behind the picture, before any text can mislead; add those
          first scores to all later ones, more strongly with each token.
Formula   w = gamma (1 - exp(-rate t)), t tokens written so far, so that w is 0 at the first token
          s = z + w z_0, z_0 the logits of the first token, kept where z >= max z + log beta
Defaults  gamma 0.3, rate 0.05, beta 0.1, part "all". The weight is 0.12 after 10 tokens, 0.28 after 50.
Cost      One addition over the vocabulary per token, and the first logits in memory.
Compared  cut-off: released code, combined with VCD, cuts logits that are already cut; ours z alone
          baseline: released code draws at temperature 1, and only its own method has the cut-off; with
            gamma=0 theirs is such draws with the cut-off, not their baseline
Differs   Works with greedy, sampling and beams. part="top" is a control of our own: only the first step's best token
          is raised, by its lead over the median token. In captions it is mostly the word that begins sentences: what
          it reaches too is not due to the picture in the first scores, but to a bias towards one word. Without a
          picture nothing is changed, as with every strategy here, although the method needs none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.options import by_model, option
from mmhall.strategies import CONTRAST, Session, Step, Strategy, contrast

_FIRST = "flb first"  # in memory, (rows, vocabulary)
_IMPOSSIBLE = -1e4  # replaces a first logit of -inf, which a weight of 0 would turn into NaN


@dataclass(frozen=True)
class FLB(Strategy):
    """Add the scores of the first token to those of all later tokens.

    Attributes:
        gamma: Largest weight of the first scores, >= 0; 0 adds nothing.
        rate: How fast the weight grows per token, >= 0; 0 adds nothing.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        part: What is added: the scores of "all" tokens, or of the "top" token alone (a control).
    """

    name: ClassVar[str] = "flb"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})
    controls: ClassVar = ({"part": "top"},)

    gamma: float = by_model(0.3, low=0, tries=(0.1, 0.2, 0.3, 0.5))
    rate: float = option(0.05, low=0)
    beta: float = option(0.1, low=0, high=1)
    part: str = option("all", choices=("all", "top"))

    def weight(self, written: int) -> float:
        """Return the weight of the first scores after some tokens."""
        return -self.gamma * math.expm1(-self.rate * written)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Remember the first scores; without a picture return an empty session."""
        adds = self.gamma > 0 and self.rate > 0
        if not has_picture(inputs) or not (adds or self.beta > 0):
            return Session()
        return Session(combine=_Boost(self, adds))


@dataclass(frozen=True, slots=True)
class _Boost:
    """Adds the first scores, row by row."""

    options: FLB
    adds: bool

    def __call__(self, step: Step) -> Tensor:
        scores = contrast(step.main, step.main, 0.0, self.options.beta)
        if not self.adds:
            return scores
        if step.t == 0:
            step.memory[_FIRST] = boosted_part(step.main + step.levels[0], self.options.part)
            return scores
        return scores.add(step.memory[_FIRST], alpha=self.options.weight(step.t))


def boosted_part(first: Tensor, part: str) -> Tensor:
    """Return what is added to later scores, (N, V), finite.

    Args:
        first: Logits of the first token, (N, V).
        part: "all": the logits; "top": of the best token its lead over the median token, of all others 0.
    """
    if part == "all":
        return first.clamp_min(_IMPOSSIBLE)
    top = first.max(dim=-1, keepdim=True)
    lead = top.values - first.median(dim=-1, keepdim=True).values
    return torch.zeros_like(first).scatter(-1, top.indices, lead)
