"""Plain beam search, the baseline of every strategy that searches.

Paper     None: the model as it is. The search is that of transformers, token for token.
Idea      Follow the most probable beginnings side by side, and take the most probable whole answer.
Formula   sum of log-probabilities over length, the best of num_beams finished hypotheses
Defaults  num_beams 5: what OPERA's authors compare with.
Cost      num_beams rows per token, in one pass; the prompt is read once.
Differs   Nothing. `num_beams` given as a generation setting wins over the option; with it, any strategy searches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmhall.adapters.base import Adapter, Inputs
from mmhall.options import option
from mmhall.strategies import SEARCH, Session, Strategy


@dataclass(frozen=True)
class Beam(Strategy):
    """Search with beams, by the model alone.

    Attributes:
        num_beams: Hypotheses followed side by side, >= 2.
    """

    name: ClassVar[str] = "beam"
    claims: ClassVar[frozenset[str]] = frozenset({SEARCH})

    num_beams: int = option(5, low=2)

    @property
    def beams(self) -> int:  # type: ignore[override]
        """As many as asked for."""
        return self.num_beams

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Wish for nothing but beams."""
        return Session()
