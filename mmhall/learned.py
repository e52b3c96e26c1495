"""Strategies that learn something about a model offline, before they can be used with it.

What they learn is an `Artifact`: made by `mmhall fit`, loaded with the model, held in `Adapter.artifacts`. The option
`artifact` of such a strategy names it by the first digits of its SHA-256. Left open, it takes the one that was loaded;
so an answer's strategy always says which artifact was used, and refuses to be repeated with another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mmhall.errors import CompositionError, OptionError
from mmhall.options import by_model
from mmhall.strategies import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from mmhall.adapters.base import Adapter
    from mmhall.artifacts import Artifact
    from mmhall.pairs import Pair


class Fit(NamedTuple):
    """What a strategy has learnt.

    Attributes:
        tensors: By name.
        numbers: What a reader should know of them, as JSON can write it, such as `ShuffledRange.record` by layer.
    """

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LearnedStrategy(Strategy):
    """A strategy that is fitted on pairs of texts, model by model.

    Attributes:
        artifact: First digits of the SHA-256 of what it has learnt about the model.
    """

    artifact: str | None = by_model("", expected="the first digits of an artifact's sha256")

    def fit(self, adapter: Adapter, pairs: Sequence[Pair], seed: int) -> Fit:
        """Learn from pairs; every option that depends on the model has a value, but for `artifact`.

        Args:
            adapter: The model.
            pairs: At least one.
            seed: Of whatever is drawn.

        Raises:
            FitError: The pairs show nothing to learn.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to fit it")

    def learned(self, adapter: Adapter) -> Artifact:
        """Return what it has learnt about a model.

        Raises:
            CompositionError: Nothing yet.
            OptionError: Something else than the option `artifact` names.
        """
        held = adapter.artifacts.get(self.name)
        if held is None:
            raise CompositionError(
                f"{self.name}: needs an artifact fitted on this model, and none is loaded; make one with "
                f"`mmhall fit {self.name} --model MODEL --apply`, or give its file to mmhall.load as artifacts=FILE "
                "(--artifacts FILE)"
            )
        if self.artifact and not held.sha256.startswith(self.artifact):
            raise OptionError(self.name, "artifact", self.artifact, f"left out, or {held.digest!r}: that one is loaded")
        return held

    def fitted(self, adapter: Adapter) -> Strategy:
        """Refuse to go without an artifact."""
        self.learned(adapter)
        return super().fitted(adapter)

    def _filled(self, adapter: Adapter) -> dict[str, tuple[Any, str]]:
        """Name the artifact that was loaded, if it is left open which."""
        filled, held = super()._filled(adapter), adapter.artifacts.get(self.name)
        if "artifact" in filled and held is not None:
            filled["artifact"] = held.digest, held.origin
        return filled
