"""Decoding by contrasting layers (DoLa).

Paper     Chuang et al., ICLR 2024, arXiv:2309.03883; voidism/DoLa.
Idea      A model's knowledge enters its prediction in the later layers; subtract the prediction of the early layer that
          differs most.
Formula   candidates: states after 0, 2, 4, ... layers, in the chosen half of the model, through the head without the
          final norm; q their distributions, p the last layer's, M = (p + q) / 2
          the candidate with the largest (KL(M || p) + KL(M || q)) / 2 is subtracted
          s = log p - alpha log q, kept where log p >= max log p + log beta
Defaults  alpha 1, beta 0.1, bucket "all"; "high" of 32 layers are the states after 16 to 30. A bucket without a
          candidate, as in a model of one or two layers, is refused.
Cost      The output head once for each candidate and token: 16 more rows of its product in a model of 32 layers.
Compared  divergence: paper Jensen-Shannon, with the other order in each KL; released code as above; ours as
            released (divergence="jensen-shannon")
          layer: released code once for all rows of a batch; ours for each row (compat=True: once)
          candidates: authors the low or the high half, by task; vision-language code all; ours all (bucket)
          norm: released code none before the head; some other implementations the final norm; ours none
            (early_norm=True)
          repetition penalty: authors 1.2 for long answers, on the difference; vision-language code none;
            ours a generation setting, on the level of logits (compat=True: on the difference)
          baseline: greedy, without the cut-off
Differs   alpha 1 is their formula. Embeddings tied to the head's weights are no candidate: they predict the token that
          was read. Without a picture nothing is changed, as with every strategy here, although the method needs none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import Exit
from mmhall.options import by_model, option
from mmhall.strategies import (
    CONTRAST,
    Session,
    Step,
    StepRecord,
    Strategy,
    contrast,
    layers_by_token,
    twin_generator,
    twin_option,
)


@dataclass(frozen=True)
class DoLa(Strategy):
    """Subtract the prediction of the layer that differs most from the last.

    Attributes:
        alpha: Strength of the subtraction, >= 0; 0 keeps the plain scores.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        bucket: Candidates: every second layer of the "low" half of the model, of the "high" half, or of "all".
        early_norm: Whether candidates pass the model's final norm.
        divergence: How predictions are compared: "released", or "jensen-shannon".
        compat: Whether to keep of the released code: one layer for all rows of a batch, and scores on the level of
            the difference, on which a repetition penalty depends.
        twin: 0: the strategy; a larger number: the seed of a random twin (a candidate at random at each step).
    """

    name: ClassVar[str] = "dola"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})

    alpha: float = option(1.0, low=0)
    beta: float = option(0.1, low=0, high=1)
    bucket: str = by_model("all", choices=("low", "high", "all"), tries=("low", "high", "all"))
    early_norm: bool = option(False)
    divergence: str = option("released", choices=("released", "jensen-shannon"))
    compat: bool = option(False)
    twin: int = twin_option()

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Read the candidates' predictions; without a picture return an empty session."""
        if not has_picture(inputs) or self.alpha == self.beta == 0:
            return Session()
        exits = [Exit(after - 1, norm=self.early_norm) for after in self.candidates(adapter)] if self.alpha > 0 else []
        return Session(exits=exits, combine=_LayerContrast(self, exits))

    def candidates(self, adapter: Adapter) -> list[int]:
        """Return the number of layers before each candidate.

        Raises:
            OptionError: The bucket holds no candidate.
        """
        depth, model = len(adapter.layers), adapter.model
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        low, high = {"low": (0, depth / 2), "high": (depth / 2, depth), "all": (0, depth)}[self.bucket]
        every = range(2 if tied else 0, depth, 2)
        candidates = [after for after in every if low <= after < high]
        places = " or ".join(map(str, every)) or "no number"
        expected = f"one with a candidate: in this model they stand after {places} of {depth} layers"
        self.check("bucket", bool(candidates), expected)
        return candidates


@dataclass(frozen=True, slots=True)
class _LayerContrast:
    """Subtracts the candidate that differs most, row by row."""

    options: DoLa
    exits: Sequence[Exit]
    chosen: StepRecord = field(default_factory=StepRecord)

    def __call__(self, step: Step) -> Tensor:
        options, main = self.options, step.main
        scores = contrast(main, main, 0.0, options.beta)
        if not self.exits:
            return scores
        early = torch.stack([step.exits[key].to(main.device) for key in self.exits])
        if options.twin:
            drawn = torch.randint(len(early), (1,), generator=twin_generator(options.twin, f"step {step.t}"))
            layer = drawn.to(main.device).expand(len(main))
        else:
            distances = torch.stack([divergence(main, part, options.divergence) for part in early])
            if options.compat:
                distances = distances.mean(dim=1, keepdim=True).expand_as(distances)
            layer = distances.argmax(dim=0)
        self.chosen.add(step, layer)
        chosen = early[layer, torch.arange(len(main), device=main.device)]
        return torch.where(scores == -math.inf, scores, scores - options.alpha * chosen)

    def findings(self, depth: int) -> dict[str, Tensor]:
        """Return for each token which layer was subtracted."""
        return {"subtracted layers": layers_by_token(self.chosen.by_token(), self.exits, depth)} if self.exits else {}

    def level(self, step: Step) -> Tensor:
        """Return the level of the scores, (rows, 1): that of the last layer's logits, or 0 as released."""
        level = step.levels[0]
        return torch.zeros_like(level) if self.options.compat and self.exits else level


def divergence(main: Tensor, early: Tensor, kind: str = "released") -> Tensor:
    """Return the divergence of two predictions, (N,), >= 0.

    Args:
        main: Log-probabilities of the last layer, (N, V); tokens at -inf do not count.
        early: Log-probabilities of an early layer, (N, V).
        kind: "released": (KL(M || p) + KL(M || q)) / 2 with M = (p + q) / 2; "jensen-shannon": with the arguments of
            both KL swapped.
    """
    mixed = torch.logaddexp(main, early) - math.log(2)
    if kind == "released":
        each = mixed.exp() * (mixed - (main + early) / 2)
    else:
        each = (main.exp() * (main - mixed) + early.exp() * (early - mixed)) / 2
    return each.masked_fill(main == -math.inf, 0.0).sum(dim=-1)
