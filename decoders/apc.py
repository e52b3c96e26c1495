"""Adaptive plausibility constraint alone (APC).

Paper     Li et al., "Contrastive decoding", ACL 2023, arXiv:2210.15097: the cut-off that contrasts use; without a
          contrast it is a control of them.
Idea      Contrasts rule out implausible tokens before they draw. Do only that: what a sampled contrast gains over plain
          sampling, and this gains too, is not due to the contrast.
Formula   s = z, kept where z >= max z + log beta; with beta 1 only the first of the likeliest tokens
Defaults  beta 0.1, as the contrasts here. Compare a contrast with the same beta.
Cost      None.
Differs   The cut-off comes before temperature, top-k and top-p, as in the contrasts. Greedy decoding does not change.
          Without a picture nothing is cut off, as in the contrasts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.options import option
from mmhall.strategies import CONTRAST, Session, Step, Strategy, contrast


@dataclass(frozen=True)
class APC(Strategy):
    """Rule out implausible tokens, without a contrast.

    Attributes:
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
    """

    name: ClassVar[str] = "apc"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})

    beta: float = option(0.1, low=0, high=1)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Cut off implausible tokens; without a picture return an empty session."""
        if not has_picture(inputs) or self.beta == 0:
            return Session()
        return Session(combine=Plausible(self.beta))


@dataclass(frozen=True, slots=True)
class Plausible:
    """A session's `combine` that rules out implausible tokens.

    Attributes:
        beta: Plausibility cut-off in (0, 1].
    """

    beta: float

    def __call__(self, step: Step) -> Tensor:
        """Return scores, (rows, vocabulary)."""
        if self.beta < 1:
            return contrast(step.main, step.main, 0.0, self.beta)
        best = step.main.argmax(dim=-1, keepdim=True)  # one of equal ones, so that draws are greedy
        return torch.full_like(step.main, -math.inf).scatter(-1, best, step.main.gather(-1, best))
