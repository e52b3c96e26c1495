"""Plain decoding, the baseline of every comparison.

Paper     None: the same as `generate` of transformers.
Idea      Use the model's own next-token distribution unchanged.
Formula   s = z
Defaults  No options.
Cost      1 forward pass per token.
Differs   Nothing: token for token the same as transformers' own greedy search, sampling or beam search under the same
          settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmhall.adapters import Adapter, Inputs
from mmhall.strategies import Session, Strategy


@dataclass(frozen=True)
class Greedy(Strategy):
    """Decode with the model alone; `do_sample` and `num_beams` still apply."""

    name: ClassVar[str] = "greedy"

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Return an empty session."""
        return Session()
