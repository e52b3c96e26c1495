"""The base of strategies that are fitted to a model offline, before they are used with it.

The result of a fit is an `Artifact`: written by `mmhall fit`, loaded with the model, kept in `Adapter.artifacts`. The
option `artifact` of such a strategy names it by the first digits of its SHA-256. Left open, it takes the loaded one. So
an answer's strategy always records which artifact was used, and cannot be repeated with another one. The same holds for
options that the fit depended on, such as the layers that were read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from mmhall.errors import CompositionError, ModelError, OptionError
from mmhall.options import by_model, rules
from mmhall.strategies import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from mmhall.adapters import Adapter
    from mmhall.strategies.artifacts import Artifact

AS_FITTED = "as its artifact was fitted"
AS_CHOSEN = "chosen by the fit of its artifact"


class Fit(NamedTuple):
    """The result of a fit.

    Attributes:
        tensors: Tensors by name.
        numbers: Numbers for a reader, as JSON can write them, such as `ShuffledRange.record` by layer.
        chosen: Options that the fit has chosen, such as a layer: their values where they are left open. They must be
            `adjustable`.
    """

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]
    chosen: Mapping[str, Any] = MappingProxyType({})


def _is_digest(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{12}", text) is not None


@dataclass(frozen=True, kw_only=True)
class LearnedStrategy(Strategy):
    """The base of strategies that are fitted to each model on pairs of texts, or on yes/no questions.

    Attributes:
        learns_from: What `fit` learns from: "pairs" of a faithful and a hallucinated text, or yes/no "questions".
        adjustable: Options that depend on the model but not on the fit, such as a strength; they may be changed later.
            All other options that depend on the model are fixed by the artifact.
        unless: When no artifact is needed, in words after a comma, for documentation; "": it always is.
        optional: Whether it works without an artifact, too, on all models.
        artifact: The first 12 digits of the SHA-256 of the fitted artifact.
    """

    learns_from: ClassVar[str] = "pairs"
    adjustable: ClassVar[frozenset[str]] = frozenset()
    unless: ClassVar[str] = ""
    optional: ClassVar[bool] = False

    artifact: str | None = by_model(
        "", holds=_is_digest, expected="the first 12 digits of an artifact's sha256", learned=True
    )

    def fit(self, adapter: Adapter, pairs: Sequence[Any], seed: int) -> Fit:
        """Fit the strategy on samples; all options that depend on the model have a value, except `artifact`.

        Args:
            adapter: The model.
            pairs: What `learns_from` names: each a `Pair`, or each a `Question`; at least one.
            seed: Seed of random draws.

        Raises:
            FitError: Nothing can be learned from the samples.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to fit it")

    def for_fit(self) -> LearnedStrategy:
        """Return this strategy as `mmhall fit` fits it.

        Raises:
            OptionError: An option holds what the fit is to find.
        """
        return self

    def needs_artifact(self, adapter: Adapter) -> bool:
        """Whether this strategy needs an artifact on a model; not where its options hold all that a fit would find."""
        return True

    def learned(self, adapter: Adapter) -> Artifact:
        """Return the artifact fitted to a model.

        Raises:
            CompositionError: No artifact is loaded.
            ModelError: The artifact found beside the model was fitted on another model.
            OptionError: The loaded artifact is not the one that the option `artifact` names, or other options differ.
        """
        artifact: Artifact | None = adapter.artifacts.get(self.name)
        if artifact is None:
            raise CompositionError(
                f"{self.name}: needs an artifact fitted on this model, and none is loaded; make one with "
                f"`mmhall fit {self.name} --model MODEL --apply`, or give its file to mmhall.load as artifacts=FILE "
                "(--artifacts FILE)"
            )
        if artifact.refused is not None:
            raise ModelError(artifact.refused)
        if self.artifact not in (None, artifact.digest):
            raise OptionError(
                self.name, "artifact", self.artifact, f"left out, or {artifact.digest!r}: the loaded artifact"
            )
        for option, fitted in self._fixed(artifact).items():
            if getattr(self, option) not in (None, fitted):
                expected = f"left out, or {fitted!r}, with which its artifact was fitted; or run `mmhall fit` again"
                raise OptionError(self.name, option, getattr(self, option), expected)
        return artifact

    def fitted(self, adapter: Adapter) -> Strategy:
        """Return this strategy with the artifact and the options of its fit, if it needs them.

        Raises:
            OptionError: It names an artifact that it does not need; or as in `learned`.
        """
        unlearned = Strategy.fitted(self, adapter)  # refuses a model that cannot carry it, before it asks for a fit
        if not self.needs_artifact(adapter):
            self.check("artifact", self.artifact is None, "left out, as no option takes what was fitted")
            return unlearned
        artifact = self.learned(adapter)
        values = {**self._values_of_fit(artifact), **self._chosen(artifact, adapter)}
        return Strategy.fitted(replace(self, **values), adapter)

    def origins(self, adapter: Adapter) -> dict[str, str]:
        """Return the provenance of open options, mostly the artifact."""
        origins, artifact = super().origins(adapter), adapter.artifacts.get(self.name)
        if artifact is None or not self.needs_artifact(adapter):
            return origins
        fitted = dict.fromkeys(self._values_of_fit(artifact), AS_FITTED)
        fitted |= dict.fromkeys(self._chosen(artifact, adapter), AS_CHOSEN)
        return {**origins, **fitted, **({"artifact": artifact.origin} if "artifact" in fitted else {})}

    def _fixed(self, artifact: Artifact) -> dict[str, Any]:
        """Return the options that an artifact was fitted with and that must not change."""
        by_model = {option for option, rule in rules(type(self)).items() if rule.by_model}
        fixed = by_model - self.adjustable
        return {option: value for option, value in artifact.fitted_with.items() if option in fixed}

    def _values_of_fit(self, artifact: Artifact) -> dict[str, Any]:
        """Return the values of an artifact's fit for options that were left open."""
        values = {"artifact": artifact.digest, **self._fixed(artifact)}
        return {option: value for option, value in values.items() if getattr(self, option) is None}

    def _chosen(self, artifact: Artifact, adapter: Adapter) -> dict[str, Any]:
        """Return the values that a fit has chosen for options that were left open and are not tuned."""
        tuned = adapter.tuned.get(self.tuned_as, {})
        return {
            option: value
            for option, value in artifact.facts.get("chosen", {}).items()
            if option not in tuned and getattr(self, option, "") is None
        }

    def _open_values(self, adapter: Adapter) -> dict[str, tuple[Any, str]]:
        """Leave out the option `artifact`, which has no default."""
        return {option: value for option, value in super()._open_values(adapter).items() if option != "artifact"}
