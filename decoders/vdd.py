"""Visual debias decoding (VDD, "debias sampling").

Paper     Zhang et al., "Debiasing multimodal large language models", arXiv:2403.05262;
          yfzhang114/LLaVA-Align.
Idea      The model's prediction without a picture, or with an empty one, is its prior; subtract it.
Formula   s = (1 + alpha) z - alpha z_free, kept where z >= max z + log beta, z_free the mean of the
          log-probabilities of the chosen picture-free inputs
Defaults  alpha 1.0, beta 0.1 (open generation; the authors' POPE script uses 0.2), free "none".
Cost      1 more row per token for each picture-free input, in one pass; the prefill of "none" and "unk" is short, of
          the others as long as the prompt's.
Differs   Works with greedy, sampling and beams; the authors' patch acts only when sampling. Averages log-probabilities
          where they average raw logits: the difference is a constant per row, which changes neither the softmax nor the
          cut-off, which depends on z alone. Any combination may be averaged; theirs are none, unk and both. "unk" is
          the padding token if the tokenizer has no unknown token. Each branch has its own cache; the authors' noised
          variant reads the clean cache from the second token on. "noise" is drawn for each picture by itself;
          draw="seed" gives all pictures of one size the same noise (see `vcd`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.options import option
from mmhall.strategies import (
    DRAWS,
    PICTURE_FREE_EXPECTED,
    ContrastStrategy,
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
        twin: 0: the strategy; a larger number: the seed of a random twin (another picture for each input).
    """

    name: ClassVar[str] = "vdd"

    free: str = option("none", holds=lambda free: bool(picture_free_kinds(free)), expected=PICTURE_FREE_EXPECTED)
    seed: int = option(0, low=0, high=2**63 - 1)
    draw: str = option("picture", choices=DRAWS)
    twin: int = twin_option()

    def variants(self, adapter: Adapter, inputs: Inputs) -> list[dict[str, Tensor]]:
        """Return the picture-free inputs."""
        return [
            picture_free_inputs(adapter, inputs, kind, self.seed, self.draw) for kind in picture_free_kinds(self.free)
        ]
