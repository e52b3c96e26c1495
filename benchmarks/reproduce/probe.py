"""Measurements on the model of this machine, for estimates: the rows of a strategy, seconds of a short batch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mmhall.benchmarks.run.runner import batches
from mmhall.benchmarks.run.runs import Part
from mmhall.errors import MmhallError
from mmhall.lvlm import LVLM
from mmhall.strategies import Strategy

FEW, MORE = 2, 10  # new tokens of the two probes, whose difference is the time of a token


@dataclass(frozen=True, slots=True)
class ArmCost:
    """The exact cost of a strategy, in forward passes of the decoder; see `mmhall.analysis` (`Explanation.cost`).

    Attributes:
        strategy: The strategy as text.
        prompt_passes: Passes that read the prompt.
        token_passes: Passes for each further token.
        token_rows: Rows of these passes together.
        exact: Whether a token costs exactly that; else it is the most rows of a search, and there may be more passes.
        refused: Why the model cannot carry it; "": it can.
    """

    strategy: str
    prompt_passes: int = 0
    token_passes: int = 0
    token_rows: int = 0
    exact: bool = True
    refused: str = ""


@dataclass(slots=True)
class Probe:
    """The model that is measured.

    Attributes:
        lvlm: A loaded model.
        timed: Whether it is the model of the run, so that its seconds say something.
    """

    lvlm: LVLM
    timed: bool
    _seconds: dict[tuple[str, bool], tuple[float, float]] = field(default_factory=dict)

    def cost(self, strategy: Strategy) -> ArmCost:
        """Return the passes and rows of a strategy on a grey picture."""
        try:
            cost = self.lvlm.explain(strategy).cost
        except MmhallError as error:
            return ArmCost(str(strategy), refused=str(error))
        return ArmCost(str(strategy), cost.prompt_passes, cost.token_passes, cost.token_rows, cost.exact)

    def without_room(self, tokens: int) -> str:
        """Return why the model's context has no room for the picture and an answer; "" if it has, or it is another one.

        Args:
            tokens: Largest number of tokens of an answer.
        """
        prompt, context = self.lvlm.explain("greedy").tokens, self.lvlm.adapter.context_length
        if not self.timed or prompt + tokens <= context:
            return ""
        return f"{prompt} prompt tokens and {tokens} new ones exceed the model's context of {context}"

    def seconds(self, part: Part, strategy: Strategy, batch_size: int, tokens: int) -> float | None:
        """Estimate the seconds of all answers of a benchmark, if each has the same number of tokens.

        The first batch is answered with few and with more tokens, once for all benchmarks of its kind (yes/no or
        captions); longer answers are extrapolated in a straight line.

        Args:
            part: The benchmark with its items.
            strategy: The strategy.
            batch_size: Items decoded together.
            tokens: Tokens of an answer.

        Returns:
            Seconds; None: the model is not the one of the run, or cannot answer.
        """
        if not self.timed or not part.items:
            return None
        made = batches(part.items, batch_size)
        key = str(strategy), part.benchmark.yes_no
        if key not in self._seconds:
            try:
                self._seconds[key] = self._measure(part, made[0], strategy)
            except MmhallError:
                return None
        start, token = self._seconds[key]
        return len(made) * (start + token * max(0, tokens - FEW))

    def _measure(self, part: Part, items: list, strategy: Strategy) -> tuple[float, float]:  # type: ignore[type-arg]
        """Return the seconds of a batch with few tokens, and of each further token."""
        requests = [part.request(item) for item in items]

        def timed(tokens: int) -> tuple[float, int]:
            start = time.perf_counter()
            written = self.lvlm.generate_batch(requests, strategy, max_new_tokens=tokens)
            return time.perf_counter() - start, max(answer.usage.new_tokens for answer in written)

        timed(FEW)  # not counted: caches and kernels are made
        (few, first), (more, second) = timed(FEW), timed(MORE)
        return few, max(0.0, more - few) / max(1, second - first)
