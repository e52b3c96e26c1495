"""Plain decoding: no intervention. The baseline every other strategy is compared with.

Idea      Take the model's own next-token distribution as it is.
Cost      1 forward pass per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmhall.adapters.base import Adapter, Inputs
from mmhall.strategies import Session, Strategy


@dataclass(frozen=True)
class Greedy(Strategy):
    """Decode with the model alone; `do_sample` and `num_beams` still apply."""

    name: ClassVar[str] = "greedy"

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Wish for nothing."""
        return Session()
