"""Residual decoding (ResDec).

Paper     arXiv:2602.01047 (no code found; written from descriptions only).
Idea      The divergence between the predictions of two steps falls and rises again. Mix the scores since its
          smallest value into the current ones, those of confident steps most.
Formula   C: the best `candidates` tokens of the current step t; P_i the prediction at step i, on C
          D_i = JS(P_{i-1}, P_i), the Jensen-Shannon divergence of two steps that follow each other
          window: the steps from argmin D_i to t; t alone while D still falls, and at the first token
          w_i = -(mean over C of log P_i), divided by the sum over the window
          s = (1 - alpha) log P_t + alpha sum_i w_i log P_i on C, kept where z >= max z + log beta
Defaults  alpha 0.5, beta 0.1, candidates 256 (the paper names 64 to 512), steps 32.
Cost      The log-probabilities of the last `steps` steps in memory, one row of the vocabulary each.
Compared  All of this is our reading of a description, where it says nothing:
          candidates: ours those of the current step for all steps of the window, P_i normalised on them
          window: ours of the last `steps` steps; of equal minima the latest; the current step is part of it
          others: ours tokens outside C are ruled out
          baseline: paper draws without the cut-off, which the method has; greedy decoding is a stronger baseline
Differs   Works with greedy, sampling and beams. The weight of a step grows with its peakedness, as small probabilities
          dominate a mean of logarithms. Without a picture nothing is changed, as with every strategy here, although
          the method needs none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.options import by_model, option
from mmhall.strategies import CONTRAST, Session, Step, StepRecord, Strategy, contrast, random_choice, twin_option

_IMPOSSIBLE = -1e4  # replaces log 0, which would make weights infinite


@dataclass(frozen=True)
class ResDec(Strategy):
    """Mix the scores since the steadiest step into the current ones.

    Attributes:
        alpha: Share of past scores, in [0, 1]; 0 mixes nothing in.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all candidates.
        candidates: Number of best tokens that are scored; all others are ruled out.
        steps: Number of latest steps in which the window lies, the current one included.
        twin: 0: the strategy; a larger number: the seed of a random twin (as many past steps as the window has are
            drawn).
    """

    name: ClassVar[str] = "resdec"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})

    alpha: float = by_model(0.5, low=0, high=1, tries=(0.1, 0.25, 0.5))
    beta: float = option(0.1, low=0, high=1)
    candidates: int = option(256, low=2)
    steps: int = option(32, low=2)
    twin: int = twin_option()

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Remember the scores of each step; without a picture return an empty session."""
        if not has_picture(inputs) or (self.alpha == 0 and self.beta == 0):
            return Session()
        return Session(combine=_Mix(self))


@dataclass(frozen=True, slots=True)
class _Mix:
    """Mixes past scores into the current ones, row by row."""

    options: ResDec
    windows: StepRecord = field(default_factory=StepRecord)

    def __call__(self, step: Step) -> Tensor:
        options, main = self.options, step.main
        plain = contrast(main, main, 0.0, options.beta)
        if options.alpha == 0:
            return plain
        step.memory[_slot(step.t, options.steps)] = main
        size = main.shape[-1]
        tokens = main.topk(min(options.candidates, size), dim=-1).indices
        first = max(0, step.t + 1 - options.steps)
        past = [step.memory[_slot(at, options.steps)].gather(-1, tokens) for at in range(first, step.t + 1)]
        logs = torch.stack(past, dim=1).clamp_min(_IMPOSSIBLE).log_softmax(dim=-1)  # (N, steps, candidates)
        window = steady_window(logs)
        if options.twin:
            drawn = random_choice(window[:, :-1], options.twin, f"steps before {step.t}")
            window = torch.cat([drawn, window[:, -1:]], dim=1)
        self.windows.add(step, window.sum(dim=1) - 1)
        moved = options.alpha * (residual(logs, window) - logs[:, -1])
        return torch.full_like(main, -math.inf).scatter(-1, tokens, plain.gather(-1, tokens) + moved)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return for each token how many earlier steps were mixed in."""
        return {"earlier steps": self.windows.by_token()[:, None, None]} if self.options.alpha > 0 else {}


def _slot(at: int, steps: int) -> str:
    """Name a step's place in memory, which a later step takes over."""
    return f"resdec {at % steps}"


def steady_window(logs: Tensor) -> Tensor:
    """Mark the steps since the smallest divergence between two steps that follow each other, (N, T) bool.

    The last step is always part of it; the first one has no step before it.

    Args:
        logs: Log-probabilities of the candidates at each step, (N, T, C).
    """
    before, after = logs[:, :-1], logs[:, 1:]
    mixed = torch.logaddexp(before, after) - math.log(2)
    parts = before.exp() * (before - mixed) + after.exp() * (after - mixed)
    divergences = parts.sum(dim=-1) / 2  # (N, T - 1): of steps 1, 2, ...
    count = logs.shape[1]
    if count == 1:
        return torch.ones(logs.shape[:2], dtype=torch.bool, device=logs.device)
    start = count - 1 - divergences.flip(1).argmin(dim=1)  # argmin of the reversed steps finds the latest
    return torch.arange(count, device=logs.device) >= start[:, None]


def residual(logs: Tensor, window: Tensor) -> Tensor:
    """Return the weighted mean of the scores of a window, (N, C).

    (0.9, 0.1), (0.6, 0.4) and (0.5, 0.5) get the weights 0.4612, 0.2733 and 0.2655.

    Args:
        logs: Log-probabilities of the candidates at each step, (N, T, C).
        window: Steps to mix, (N, T) bool, at least one.
    """
    weights = -logs.mean(dim=-1) * window
    total = weights.sum(dim=-1, keepdim=True)
    weights = torch.where(total > 0, weights / total, window / window.sum(dim=-1, keepdim=True))
    return (weights[..., None] * logs).sum(dim=1)
