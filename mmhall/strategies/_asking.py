"""The base of strategies that ask the model something about a request before they decode it.

`Strategy.rewrite` sees a request only, not the model. A strategy that writes words of the model itself into the prompt,
such as a description of the picture, asks for them here, and hands what it measured meanwhile to its `prepare` in
`Batch.found`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmhall.adapters import Adapter, Batch, Inputs
from mmhall.strategies import Composed, Strategy


@dataclass(frozen=True)
class AskingStrategy(Strategy):
    """The base of strategies that ask the model something first."""

    def ask_first(self, adapter: Adapter, inputs: Batch) -> Batch:
        """Ask the model something about each request, and return the batch to decode instead.

        It is called after `rewrite` and before `prepare`, which gets the batch that is returned here. A batch that has
        been asked about is returned as it is. `mmhall.generation.answer_first` asks.

        Args:
            adapter: The model.
            inputs: The batch.

        Returns:
            A batch of as many requests with the same pictures. Its `found` keeps what earlier strategies have found.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what to ask first")


def ask_first(adapter: Adapter, inputs: Inputs, strategy: Strategy) -> Inputs:
    """Have each part of a strategy ask first that does so, in turn; else return the same inputs.

    Args:
        adapter: The model.
        inputs: A batch. Inputs from elsewhere hold no requests and are returned as they are.
        strategy: The strategy.
    """
    for part in strategy.parts if isinstance(strategy, Composed) else (strategy,):
        if isinstance(part, AskingStrategy) and isinstance(inputs, Batch):
            inputs = part.ask_first(adapter, inputs)
    return inputs
