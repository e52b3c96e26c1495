"""Output-layer rule for yes/no questions (OLM), a control of yes/no benchmarks.

Paper     None of its own; arXiv:2504.10020 compares contrasts with such a rule.
Idea      Where the model hesitates between yes and no, answer yes. A gain that this rule reaches, too, needs no
          contrast.
Formula   at the first token of the answer, P summed over the tokens of yes and of no:
          yes where P(yes) + P(no) > mass and |P(yes) - P(no)| < gap, else s = z
Defaults  mass 0.2, gap 0.5.
Cost      None.
Differs   Tokens are all single ones that read yes or no, in any case and with any white space; the likeliest token of
          yes is the answer. Without a picture nothing is changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.options import option
from mmhall.strategies import CONTRAST, Session, Step, Strategy, YesNoTokens, why_no_yes_no, yes_no_tokens


@dataclass(frozen=True)
class OLM(Strategy):
    """Answer yes where the model hesitates between yes and no.

    Attributes:
        mass: Probability of yes and no together from which the rule holds, in [0, 1].
        gap: Largest difference of their probabilities, in [0, 1]; 0 changes nothing.
    """

    name: ClassVar[str] = "olm"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})

    mass: float = option(0.2, low=0, high=1)
    gap: float = option(0.5, low=0, high=1)

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose tokenizer does not tell yes and no apart."""
        return why_no_yes_no(adapter)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Apply the rule to the first token; without a picture return an empty session."""
        if not has_picture(inputs) or self.gap == 0 or self.mass == 1:
            return Session()
        return Session(combine=HesitantYes(self.mass, self.gap, yes_no_tokens(adapter)))


@dataclass(frozen=True, slots=True)
class HesitantYes:
    """A session's `combine` that keeps the likeliest token of yes where yes and no are close.

    Attributes:
        mass: As the option.
        gap: As the option.
        tokens: Tokens of yes and no.
    """

    mass: float
    gap: float
    tokens: YesNoTokens

    def __call__(self, step: Step) -> Tensor:
        """Return scores, (rows, vocabulary)."""
        if step.t > 0:
            return step.main
        yes, no = (step.main[:, list(ids)].exp().sum(dim=-1, keepdim=True) for ids in self.tokens)
        hesitates = (yes + no > self.mass) & ((yes - no).abs() < self.gap)
        ids = torch.tensor(self.tokens.yes, device=step.main.device)
        best = ids[step.main[:, ids].argmax(dim=-1, keepdim=True)]
        only = torch.full_like(step.main, -math.inf).scatter(-1, best, 0.0)
        return torch.where(hesitates, only, step.main)
