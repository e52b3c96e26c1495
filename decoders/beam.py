"""Plain beam search, the baseline of strategies that search.

Paper     None: the model as it is. The search is that of transformers 5, token for token.
Idea      Follow the most probable partial answers in parallel, and take the most probable whole answer.
Formula   sum of log-probabilities over length ** length_penalty, the best of num_beams finished hypotheses
          length: tokens of the answer with its end mark ("answer"); or of prompt and answer without the end mark, the
          picture counted as one token ("official"), as in transformers 4.29 and 4.31, which produced the beam searches
          of the published tables
Defaults  num_beams 5, the baseline of OPERA's authors.
Cost      num_beams rows per token, in one pass; the prompt is read once.
Differs   Nothing; "official" is transformers' search of that time, token for token, where a run of image positions is
          one token. Prompts of a batch get the same answers as alone; at that time padding counted as well. The
          generation setting `num_beams` overrides the option; with it, any strategy searches.
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
        num_beams: Number of beams, >= 2.
        length_rule: The length that divides a score: of the "answer", or of prompt and answer ("official").
    """

    name: ClassVar[str] = "beam"
    claims: ClassVar[frozenset[str]] = frozenset({SEARCH})

    num_beams: int = option(5, low=2)
    length_rule: str = option("answer", choices=LENGTH_RULES)

    @property
    def beams(self) -> int:  # type: ignore[override]
        """The option `num_beams`."""
        return self.num_beams

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Return a session with the prompt lengths of the length rule."""
        return Session(prompt_lengths=prompt_lengths(self.length_rule, adapter, inputs))
