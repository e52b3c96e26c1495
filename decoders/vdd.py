"""Visual debias decoding (VDD, "debias sampling").

Paper     Zhang et al., "Debiasing multimodal large language models", arXiv:2403.05262;
          yfzhang114/LLaVA-Align.
Idea      What the model would say with no picture at all is its language prior; subtract it.
Formula   s = (1 + alpha) z - alpha z_free, kept where z >= max z + log beta, z_free the mean of the
          log-probabilities of the chosen picture-free inputs
Defaults  alpha 1.0, beta 0.1 (open generation; the authors' POPE script uses 0.2), free "none".
Cost      1 more row per token for each picture-free input, in one pass; their prefill is short.
Differs   Works with greedy, sampling and beams; the authors' patch acts when sampling only. Averages
          log-probabilities where they average raw logits: equal up to a constant per row. Each branch
          owns its cache; the authors' noised variant reads the clean cache from the second token on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mmhall.adapters.base import Adapter, Inputs
from mmhall.generation.contrast import ContrastStrategy

FREE = ("none", "unk")


@dataclass(frozen=True)
class VDD(ContrastStrategy):
    """Contrast the picture with no picture.

    Attributes:
        alpha: Contrast strength, >= 0; 0 keeps the plain scores.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        free: What stands in for the picture: "none" (nothing), "unk" (one unknown token), or "none+unk".
    """

    name: ClassVar[str] = "vdd"

    free: str = "none"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        kinds = self.free.split("+")
        self.check("free", len(set(kinds)) == len(kinds) and set(kinds) <= set(FREE), '"none", "unk" or "none+unk"')

    def variants(self, adapter: Adapter, inputs: Inputs) -> list[dict[str, Tensor]]:
        """Build each picture-free input."""
        return [_free_inputs(adapter, inputs, kind) for kind in self.free.split("+")]


def _free_inputs(adapter: Adapter, inputs: Inputs, kind: str) -> dict[str, Tensor]:
    """Build one picture-free input; tokenizers without an unknown token use padding's id for "unk"."""
    if kind == "none":
        return adapter.without_image(inputs)
    unknown = adapter.tokenizer.unk_token_id
    return adapter.without_image(inputs, replacement=unknown if unknown is not None else adapter.tokenizer.pad_token_id)
