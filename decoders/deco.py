"""Dynamic correction decoding (DeCo).

Paper     Wang et al., ICLR 2025, arXiv:2410.11779; zjunlp/Deco.
Idea      Earlier layers recognise objects that the last layers suppress; add the prediction of the earlier layer that
          is surest of a plausible token.
Formula   candidates C: of the top_k best tokens those that together reach the probability top_p
          p_l = softmax(z_l), z_l the logits of an earlier state through final norm and head
          a = argmax_l max over C of p_l, q = the maximum
          s = z + alpha q z_a on C, -inf elsewhere
Defaults  alpha 0.6, top_k 20, top_p 0.9; the states after 20 to 28 of 32 layers, in other models those after 62% to
          90% of the depth.
Cost      The output head once for each layer and token: 9 more rows of its product in a model of 32 layers.
Compared  alpha: script 0.6, example of its README 0.5; ours 0.6
          batch: released code one request at a time; ours each row with its own candidates and layer
          baseline: the same decoding (greedy for captions) without the method, over the whole vocabulary
Differs   Scores stand on the level of the last layer's logits, which matters with a repetition penalty only. Without a
          picture nothing is changed, as with every strategy here, although the method needs none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import EVERY, Exit
from mmhall.options import by_model, option
from mmhall.strategies import (
    CONTRAST,
    Session,
    Step,
    StepRecord,
    Strategy,
    layers_by_token,
    layers_option,
    select_layers,
    twin_generator,
    twin_option,
)

_IMPOSSIBLE = -1e4  # replaces log 0 of an earlier layer, which a strength of 0 would turn into NaN


@dataclass(frozen=True)
class DeCo(Strategy):
    """Add the prediction of the earlier layer that is surest of a plausible token.

    Attributes:
        alpha: Strength of the addition, >= 0; 0 adds nothing.
        top_k: Largest number of candidate tokens; 0: no limit.
        top_p: Probability that the candidates reach together, in (0, 1]; 1: no limit.
        layers: Layers whose input is read: 20 is the state after 20 layers.
        twin: 0: the strategy; a larger number: the seed of a random twin (which of `layers` is added is drawn for each
            token).
    """

    name: ClassVar[str] = "deco"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})
    published: ClassVar = {("llava", 32): {"alpha": 0.6, "layers": "20:29"}}

    alpha: float = by_model(0.6, low=0, tries=(0.2, 0.4, 0.6, 0.8))
    top_k: int = option(20, low=0)
    top_p: float = option(0.9, low=1e-6, high=1, expected="a number in (0, 1]")
    layers: str = layers_option("62%:90%")
    twin: int = twin_option()

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Read the earlier layers; without a picture return an empty session."""
        if not has_picture(inputs) or (self.alpha == 0 and self.top_k == 0 and self.top_p == 1):
            return Session()
        layers = sorted(select_layers(adapter, self, "layers", self.layers, EVERY)) if self.alpha > 0 else []
        exits = [Exit(layer - 1) for layer in layers]
        return Session(exits=exits, combine=_Correct(self, exits))


@dataclass(frozen=True, slots=True)
class _Correct:
    """Adds the surest earlier layer to the candidates, row by row."""

    options: DeCo
    exits: Sequence[Exit]
    chosen: StepRecord = field(default_factory=StepRecord)

    def __call__(self, step: Step) -> Tensor:
        options, main = self.options, step.main
        tokens, scores = candidates(main, options.top_k, options.top_p)
        if self.exits:
            early = torch.stack([step.exits[key].to(main.device).gather(-1, tokens) for key in self.exits])
            scores, layer = corrected(scores, early, options.alpha, self._drawn(step.t))
            self.chosen.add(step, layer)
        return torch.full_like(main, -math.inf).scatter(-1, tokens, scores)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return for each token which layer was added."""
        return {"added layers": layers_by_token(self.chosen.by_token(), self.exits, depth)} if self.exits else {}

    def _drawn(self, written: int) -> int | None:
        """Return the layer that a twin adds after some tokens, by its place among the exits; None: no twin."""
        if not self.options.twin:
            return None
        generator = twin_generator(self.options.twin, f"layer {written}")
        return int(torch.randint(len(self.exits), (), generator=generator))


def candidates(main: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Return each row's plausible tokens and their log-probabilities, -inf for those ruled out, (N, k) each.

    Of (0.50, 0.41, 0.07, 0.02) the first two are plausible with top_p 0.9: the token that crosses it is the last.

    Args:
        main: Log-probabilities, (N, V).
        top_k: Largest number of tokens; 0: all.
        top_p: Probability that they reach together.
    """
    size = main.shape[-1]
    scores, tokens = main.topk(min(top_k or size, size), dim=-1)
    if top_p < 1:
        probs = scores.exp()
        scores = scores.masked_fill(probs.cumsum(dim=-1) - probs >= top_p, -math.inf)
    return tokens, scores


def corrected(scores: Tensor, early: Tensor, alpha: float, chosen: int | None = None) -> tuple[Tensor, Tensor]:
    """Add the surest layer's prediction to the candidates' scores; return the scores, (N, k), and the layers, (N,).

    Args:
        scores: Of the candidates, (N, k); -inf for tokens ruled out.
        early: Log-probabilities of the candidates in each layer, (layers, N, k).
        alpha: Strength.
        chosen: The layer to add in all rows; None: the surest one of each row.
    """
    out = scores == -math.inf
    sureness = early.masked_fill(out, -math.inf).amax(dim=-1)  # (layers, N)
    layer = sureness.argmax(dim=0) if chosen is None else torch.full_like(sureness[0], chosen, dtype=torch.long)
    rows = torch.arange(len(scores), device=scores.device)
    strength = alpha * sureness[layer, rows].exp()
    moved = scores + strength[:, None] * early[layer, rows].clamp_min(_IMPOSSIBLE)
    return torch.where(out, -math.inf, moved), layer
