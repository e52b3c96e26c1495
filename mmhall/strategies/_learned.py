"""Strategies that learn something about a model offline, before they can be used with it.

What they learn is an `Artifact`: made by `mmhall fit`, loaded with the model, held in `Adapter.artifacts`. The option
`artifact` of such a strategy names it by the first digits of its SHA-256. Left open, it takes the one that was loaded;
so an answer's strategy always says which artifact was used, and refuses to be repeated with another one. The same holds
for options that the fit depended on, such as the layers that were read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from mmhall.errors import CompositionError, ModelError, OptionError
from mmhall.options import by_model, rules
from mmhall.strategies import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from mmhall.adapters import Adapter
    from mmhall.strategies._pairs import Pair
    from mmhall.strategies.artifacts import Artifact

AS_FITTED = "as its artifact was fitted"


class Fit(NamedTuple):
    """What a strategy has learnt.

    Attributes:
        tensors: By name.
        numbers: What a reader should know of them, as JSON can write it, such as `ShuffledRange.record` by layer.
    """

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


def _is_digest(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{12}", text) is not None


@dataclass(frozen=True, kw_only=True)
class LearnedStrategy(Strategy):
    """A strategy that is fitted on pairs of texts, model by model.

    Attributes:
        adjustable: Options that depend on the model and not on the fit, such as a strength: they may be changed after
            it. All others that depend on the model are those of the artifact.
        artifact: The first 12 digits of the SHA-256 of what it has learnt about the model.
    """

    adjustable: ClassVar[frozenset[str]] = frozenset()

    artifact: str | None = by_model("", holds=_is_digest, expected="the first 12 digits of an artifact's sha256")

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
            ModelError: What was found beside the model was fitted on another one.
            OptionError: Something else than the option `artifact` names, or it was fitted with other options.
        """
        held = adapter.artifacts.get(self.name)
        if held is None:
            raise CompositionError(
                f"{self.name}: needs an artifact fitted on this model, and none is loaded; make one with "
                f"`mmhall fit {self.name} --model MODEL --apply`, or give its file to mmhall.load as artifacts=FILE "
                "(--artifacts FILE)"
            )
        if held.refused is not None:
            raise ModelError(held.refused)
        if self.artifact not in (None, held.digest):
            raise OptionError(self.name, "artifact", self.artifact, f"left out, or {held.digest!r}: that one is loaded")
        for option, fitted in self._fixed(held).items():
            if getattr(self, option) not in (None, fitted):
                told = f"left out, or {fitted!r}, with which its artifact was fitted; or run `mmhall fit` again"
                raise OptionError(self.name, option, getattr(self, option), told)
        return held

    def fitted(self, adapter: Adapter) -> Strategy:
        """Name the artifact that was loaded, and take the options with which it was fitted."""
        return Strategy.fitted(replace(self, **self._taken(self.learned(adapter))), adapter)

    def origins(self, adapter: Adapter) -> dict[str, str]:
        """Say where open options get their values from, which for most of them is the artifact."""
        told, held = super().origins(adapter), adapter.artifacts.get(self.name)
        if held is None:
            return told
        own = dict.fromkeys(self._taken(held), AS_FITTED)
        return {**told, **own, **({"artifact": held.origin} if "artifact" in own else {})}

    def _fixed(self, held: Artifact) -> dict[str, Any]:
        """Return the options that depend on the model with which an artifact was fitted, and which are to stay."""
        by_model = {option for option, rule in rules(type(self)).items() if rule.by_model}
        return {option: value for option, value in held.fitted_with.items() if option in by_model - self.adjustable}

    def _taken(self, held: Artifact) -> dict[str, Any]:
        """Return the values that an artifact gives to options that were left open."""
        given = {"artifact": held.digest, **self._fixed(held)}
        return {option: value for option, value in given.items() if getattr(self, option) is None}

    def _filled(self, adapter: Adapter) -> dict[str, tuple[Any, str]]:
        """Leave the artifact open: no default names one."""
        return {option: told for option, told in super()._filled(adapter).items() if option != "artifact"}
