"""Plain beam search, the baseline of every strategy that searches.

Paper     None: the model as it is. The search is that of transformers 5, token for token.
Idea      Follow the most probable beginnings side by side, and take the most probable whole answer.
Formula   sum of log-probabilities over length ** length_penalty, the best of num_beams finished hypotheses
          length: tokens of the answer, its end mark included ("answer"); or of prompt and answer, the picture one
          token, without the end mark ("official"), as in transformers 4.29 and 4.31, with which the beam searches of
          the published tables were run
Defaults  num_beams 5: what OPERA's authors compare with.
Cost      num_beams rows per token, in one pass; the prompt is read once.
Differs   Nothing; "official" is transformers' search of that time, token for token. A run of image positions is one
          token then. Prompts of a batch find what they find alone; at that time padding counted as well. `num_beams`
          given as a generation setting wins over the option; with it, any strategy searches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmhall.adapters import Adapter, Inputs
from mmhall.generation import LENGTH_RULES, prompt_lengths
from mmhall.options import option
from mmhall.strategies import SEARCH, Session, Strategy


@dataclass(frozen=True)
class Beam(Strategy):
    """Search with beams, by the model alone.

    Attributes:
        num_beams: Hypotheses followed side by side, >= 2.
        length_rule: The length that divides a score: of the "answer", or of prompt and answer ("official").
    """

    name: ClassVar[str] = "beam"
    claims: ClassVar[frozenset[str]] = frozenset({SEARCH})

    num_beams: int = option(5, low=2)
    length_rule: str = option("answer", choices=LENGTH_RULES)

    @property
    def beams(self) -> int:  # type: ignore[override]
        """As many as asked for."""
        return self.num_beams

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Wish for nothing but beams, and say which length counts."""
        return Session(prompt_lengths=prompt_lengths(self.length_rule, adapter, inputs))
