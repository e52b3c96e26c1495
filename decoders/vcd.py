"""Visual contrastive decoding (VCD).

Paper     Leng et al., CVPR 2024, arXiv:2311.16922.
Idea      Score each next token with the picture and with a noised copy of it, and prefer tokens whose score depends on
          the clean picture.
Formula   x' = sqrt(a_t) x + sqrt(1 - a_t) e, with e ~ N(0, I) drawn once per picture and a_t the
          cumulative product of 1 - b_i, b_i = sigmoid(u_i) (0.005 - 0.00001) + 0.00001,
          u = linspace(-6, 6, 1000), on the normalised pixels
          s = (1 + alpha) z - alpha z', kept where z >= max z + log beta
Defaults  alpha 1.0, beta 0.1, noise_step 500: those of the paper and its scripts. (Their sampler uses alpha 0.5 if the
          argument is missing; their POPE script uses beta 0.2.)
Cost      2 rows per token instead of 1, in one pass; one more prefill of full length.
Differs   Works with greedy, sampling and beams; the authors' patch acts only when sampling. Each branch has its own
          cache. They draw from one global generator; here each request has its own, seeded with a digest of `seed` and
          its pixels: different pictures get independent noise, and a picture gets the same noise in any batch.
          draw="seed" seeds it with `seed` alone, so that all pictures of one size get the same noise. Where patches
          hold a still picture several times, as frames, all copies get the same noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.options import option
from mmhall.strategies import DRAWS, NOISE_STEPS, ContrastStrategy, add_noise, twin_option


@dataclass(frozen=True)
class VCD(ContrastStrategy):
    """Contrast the clean picture with a noised copy.

    Attributes:
        alpha: Contrast strength, >= 0; 0 keeps the clean scores.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        noise_step: Diffusion step of the copy, 0 (almost clean) to 999 (almost only noise).
        seed: Seed of the noise.
        draw: What seeds the noise: `seed` and the "picture", or the "seed" alone.
        twin: 0: the strategy; a larger number: the seed of a random twin (another picture instead of the noised copy).
    """

    name: ClassVar[str] = "vcd"

    noise_step: int = option(500, low=0, high=NOISE_STEPS - 1)
    seed: int = option(0, low=0, high=2**63 - 1)
    draw: str = option("picture", choices=DRAWS)
    twin: int = twin_option()

    def variants(self, adapter: Adapter, inputs: Inputs) -> list[dict[str, Tensor]]:
        """Return the prompts with noised pictures."""
        return [add_noise(adapter, inputs, self.noise_step, self.seed, self.draw)]
