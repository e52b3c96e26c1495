"""Contrast of two next-token distributions under a plausibility constraint.

The constraint (Li et al., arXiv:2210.15097) depends on the plain distribution only: after the contrast, an implausible
token can have the highest score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.options import by_model, option
from mmhall.strategies import Branch, Session, Strategy
from mmhall.strategies._step import Step
from mmhall.strategies._twins import other_pictures

CONTRAST = "the contrast of two distributions"  # the claim of strategies that combine branches
_IMPOSSIBLE = -1e4  # replaces log 0 in a contrast branch; -inf would become +inf or NaN


def contrast(main: Tensor, other: Tensor, alpha: float | Tensor, beta: float) -> Tensor:
    """Contrast two distributions, and rule out implausible tokens.

    Args:
        main: Log-probabilities, (batch, vocabulary).
        other: Log-probabilities of the branch to subtract, same shape.
        alpha: Strength, >= 0; one number, or one of each row, (batch, 1).
        beta: Tokens with less than beta times the top probability of `main` are ruled out.

    Returns:
        (1 + alpha) main - alpha other, -inf for tokens ruled out; same shape.
    """
    cut = main.amax(dim=-1, keepdim=True) + (math.log(beta) if beta > 0 else -math.inf)
    out = (main < cut) | (main == -math.inf)
    return ((1 + alpha) * main - alpha * other.clamp_min(_IMPOSSIBLE)).masked_fill(out, -math.inf)


def mean(main: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors of one shape; `main` if there are none."""
    return torch.stack(list(others)).mean(dim=0) if others else main


@dataclass(frozen=True, slots=True)
class Contrast:
    """A session's `combine` that contrasts the main rows with the mean of the branches.

    Attributes:
        alpha: Strength, >= 0.
        beta: Plausibility cut-off in [0, 1].
    """

    alpha: float
    beta: float

    @property
    def neutral(self) -> bool:
        """Whether the scores stay unchanged."""
        return self.alpha == 0 and self.beta == 0

    def strength(self, main: Tensor, other: Tensor) -> float | Tensor:
        """Return the strength for two predictions, (rows, vocabulary) each: one number, or (rows, 1)."""
        return self.alpha

    def __call__(self, step: Step) -> Tensor:
        """Return scores, (rows, vocabulary)."""
        other = mean(step.main, step.branches)
        return contrast(step.main, other, self.strength(step.main, other), self.beta)

    def level(self, step: Step) -> Tensor:
        """Return the level of the contrast of logits, (rows, 1)."""
        main, *others = step.levels
        strength = self.strength(step.main, mean(step.main, step.branches))
        return (1 + strength) * main - strength * mean(main, others)


@dataclass(frozen=True)
class ContrastStrategy(Strategy):
    """The base of strategies that contrast the picture with variants of it.

    Attributes:
        alpha: Contrast strength, >= 0; 0 keeps the plain scores.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        twin: 0 here; a strategy that declares it as an option has a random twin, with another picture for each variant.
    """

    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})

    alpha: float = by_model(1.0, low=0, tries=(0.25, 0.5, 1.0, 2.0, 4.0))
    beta: float = option(0.1, low=0, high=1)
    twin = 0

    def variants(self, adapter: Adapter, inputs: Inputs) -> list[dict[str, Tensor]]:
        """Return the inputs whose predictions are subtracted."""
        raise NotImplementedError(f"{type(self).__name__} does not say what to contrast with")

    def twin_variants(self, adapter: Adapter, inputs: Inputs) -> list[dict[str, Tensor]]:
        """Return the inputs whose predictions a random twin subtracts: as many other pictures."""
        count = len(self.variants(adapter, inputs))
        return [other_pictures(adapter, inputs, self.twin, number) for number in range(count)]

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Add a branch for each variant; without a picture return an empty session."""
        combine = Contrast(self.alpha, self.beta)
        if not has_picture(inputs) or combine.neutral:
            return Session()
        make = self.twin_variants if self.twin else self.variants
        variants = make(adapter, inputs) if self.alpha > 0 else []
        return Session(branches=[Branch(variant) for variant in variants], combine=combine)
