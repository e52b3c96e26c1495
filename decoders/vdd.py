"""Visual debias decoding (VDD, "debias sampling").

Paper     Zhang et al., "Debiasing multimodal large language models", arXiv:2403.05262;
          yfzhang114/LLaVA-Align. weight "divergence": NoLan, arXiv:2602.22144; lingfengren/NoLan.
Idea      The model's prediction without a picture, or with an empty one, is its prior; subtract it.
Formula   s = (1 + alpha) z - alpha z_free, kept where z >= max z + log beta, z_free the mean of the
          log-probabilities of the chosen picture-free inputs
          weight "divergence": alpha_t = alpha (1 + tanh(1 / K)) in place of alpha, from alpha to 2 alpha,
          K = (KL(p || p_free) + KL(p_free || p)) / 2 of the step; 2 alpha where both are equal
Defaults  alpha 1.0, beta 0.1, free "none". NoLan is weight="divergence", alpha=0.8, beta=0.
Cost      1 more row per token for each picture-free input, in one pass; the prefill of "none" and "unk" is short, of
          the others as long as the prompt's.
Compared  beta: released code 0.1, POPE script 0.2; NoLan reads the option but has no cut-off; ours 0.1
          decoding: released code acts when sampling only; ours with greedy, sampling and beams
          mean: released code of logits; ours of log-probabilities: other by a constant of each row, which
            changes neither the softmax nor the cut-off
          inputs: released code none, unk and both; ours any combination
          cache: released noised variant reads the clean cache from the second token on; ours each its own
          baseline: released code draws, by default at temperature 0.2, NoLan at 1; neither has the cut-off
Differs   "unk" is the padding token if the tokenizer has no unknown token. "noise" is drawn for each picture by itself;
          draw="seed" gives all pictures of one size the same noise (see `vcd`). By divergence, each row of a batch has
          its own weight. It is nearly 2 alpha at most steps, as only a large divergence lowers it: compare with a
          constant alpha of twice the size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.options import option
from mmhall.strategies import (
    DRAWS,
    PICTURE_FREE_EXPECTED,
    Contrast,
    ContrastStrategy,
    Session,
    picture_free_inputs,
    picture_free_kinds,
    twin_option,
)


@dataclass(frozen=True)
class VDD(ContrastStrategy):
    """Contrast the picture with picture-free inputs.

    Attributes:
        alpha: Contrast strength, >= 0; 0 keeps the plain scores.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        free: What replaces the picture: "none" (nothing), "unk" (one unknown token), "noise", "zero" (the mean
            colour), "one" (normalised pixels of one), "black", or several, such as "none+unk".
        seed: Seed of "noise".
        draw: What seeds "noise": `seed` and the "picture", or the "seed" alone.
        weight: "constant": alpha; "divergence": larger at steps in which the picture changes the prediction little.
        twin: 0: the strategy; a larger number: the seed of a random twin (another picture for each input).
    """

    name: ClassVar[str] = "vdd"

    free: str = option("none", holds=lambda free: bool(picture_free_kinds(free)), expected=PICTURE_FREE_EXPECTED)
    seed: int = option(0, low=0, high=2**63 - 1)
    draw: str = option("picture", choices=DRAWS)
    weight: str = option("constant", choices=("constant", "divergence"))
    twin: int = twin_option()

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Add a branch for each picture-free input; without a picture return an empty session."""
        session = super().prepare(adapter, inputs)
        if self.weight == "constant" or not session.branches:
            return session
        return Session(branches=session.branches, combine=_ByDivergence(self.alpha, self.beta))

    def variants(self, adapter: Adapter, inputs: Inputs) -> list[dict[str, Tensor]]:
        """Return the picture-free inputs."""
        return [
            picture_free_inputs(adapter, inputs, kind, self.seed, self.draw) for kind in picture_free_kinds(self.free)
        ]


@dataclass(frozen=True, slots=True)
class _ByDivergence(Contrast):
    """Contrasts with a strength of each row, from the divergence of both predictions."""

    def strength(self, main: Tensor, other: Tensor) -> Tensor:
        return divergence_strength(main, other, self.alpha)


def divergence_strength(main: Tensor, free: Tensor, alpha: float) -> Tensor:
    """Return the strength of each row, (N, 1), from alpha to 2 alpha.

    The predictions (0.7, 0.3) and (0.5, 0.5) diverge by 0.0847 and get 2 alpha; (0.99, 0.01) and (0.01, 0.99) diverge
    by 4.5032 and get 1.2186 alpha.

    Args:
        main: Log-probabilities with the picture, (N, V).
        free: Without it, (N, V), up to a constant of each row.
        alpha: Smallest strength.
    """
    free = free.log_softmax(dim=-1)
    parts = (main.exp() - free.exp()) * (main - free)
    divergence = parts.masked_fill(main == free, 0.0).nansum(dim=-1, keepdim=True).clamp_min(0) / 2
    return alpha * (1 + torch.tanh(1 / divergence))
