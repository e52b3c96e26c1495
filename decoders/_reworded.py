"""The base of strategies that ask the plain model a question in other words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmhall.adapters import Adapter, Batch, Inputs, Request, edit_question, has_picture
from mmhall.errors import CompositionError
from mmhall.strategies import Session, Strategy


@dataclass(frozen=True)
class Reworded(Strategy):
    """Ask the question about a picture in other words, and decode as usual."""

    claims: ClassVar[frozenset[str]] = frozenset({"the wording of the prompt"})

    def is_reworded(self, question: str) -> bool:
        """Tell whether a question is in the other words already."""
        raise NotImplementedError(f"{type(self).__name__} does not say which questions it has reworded")

    def reword(self, question: str) -> str:
        """Return a question in other words."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to reword a question")

    def rewrite(self, request: Request) -> Request:
        """Reword the question; without a picture leave the request as it is."""
        asks = self.is_reworded(request.conversation.question)
        return request if asks or not request.images else edit_question(request, self.reword)

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Return an empty session.

        Raises:
            CompositionError: The inputs are of the requests as they were before.
        """
        if not has_picture(inputs):
            return Session()
        if not isinstance(inputs, Batch):
            raise CompositionError(
                f"{self.name}: it changes the question, and inputs made elsewhere hold only its tokens; use "
                "LVLM.generate, or write the question differently and decode with greedy"
            )
        if any(self.rewrite(request) is not request for request in inputs.requests):
            raise CompositionError(
                f"{self.name}: these inputs are of the question as it was before; make them of "
                "strategy.rewrite(request)"
            )
        return Session()
