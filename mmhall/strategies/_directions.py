"""Directions that separate two kinds of hidden states, and checks that a direction is more than chance.

With few samples and wide states a mean difference is never zero, and the first principal component of differences is
the direction in which they *vary*, which may be unrelated to their mean. These functions raise an error instead of
returning a direction without meaning. All compute in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mmhall.errors import FitError

LEAST_COSINE = 0.05
_DRAWS = 20


def _usable(samples: Tensor) -> Tensor:
    """Return samples in float64.

    Raises:
        FitError: There are none, or one is not finite.
    """
    raw = samples.double()
    if not len(raw):
        raise FitError("there are no samples; give at least one pair")
    lost = int((~raw.flatten(1).isfinite()).any(dim=1).sum())
    if lost:
        raise FitError(f"{lost} of {len(raw)} samples hold NaN or infinity; load the model with another dtype")
    return raw


def mean_difference(ones: Tensor, others: Tensor) -> Tensor:
    """Return the mean difference of paired samples, `ones` minus `others`, (...) float32.

    Args:
        ones: (samples, ...).
        others: Their partners in the same order, (samples, ...).

    Raises:
        FitError: The shapes differ, there are no samples, or they hold NaN or infinity.
    """
    if ones.shape != others.shape:
        raise FitError(f"samples of shape {tuple(ones.shape)} have no partners in {tuple(others.shape)}; give pairs")
    return _usable(ones.double() - others.double()).mean(dim=0).float()


@dataclass(frozen=True, slots=True)
class Component:
    """A first principal component.

    Attributes:
        direction: Unit vector, (D,) float32, with a positive cosine to the samples' mean.
        cosine: Cosine with the samples' mean, in [`LEAST_COSINE`, 1].
        share: Share of the samples' variance along it, in [0, 1].
    """

    direction: Tensor
    cosine: float
    share: float


def principal_component(samples: Tensor) -> tuple[Tensor, float]:
    """Return the first principal component of samples and its share of their variance.

    Its sign is arbitrary: use it for a projection, and `sign_aligned_component` for a direction.

    Args:
        samples: (samples, D), not centred.

    Returns:
        A unit vector, (D,) float64, and a number in [0, 1].

    Raises:
        FitError: The samples do not vary, there are none, or they hold NaN or infinity.
    """
    raw = _usable(samples)
    _, spectrum, rows = torch.linalg.svd(raw - raw.mean(dim=0), full_matrices=False)
    variance = float(spectrum.square().sum())
    if not variance > 1e-12 * float(raw.square().sum()):
        raise FitError(
            f"samples that do not differ from each other have no principal component, and there are {len(raw)} like "
            "that; give more pairs, or texts that differ more"
        )
    return rows[0], float(spectrum[0].square()) / variance


def sign_aligned_component(samples: Tensor) -> Component:
    """Return the first principal component of samples, with the sign that agrees with their mean.

    Args:
        samples: (samples, D), not centred.

    Raises:
        FitError: The samples do not vary, there are none, they hold NaN or infinity, or the component is almost
            orthogonal to their mean.
    """
    component, share = principal_component(samples)
    mean = samples.double().mean(dim=0)
    cosine = float(component @ mean / mean.norm().clamp_min(torch.finfo(torch.float64).tiny))
    if abs(cosine) < LEAST_COSINE:
        raise FitError(
            f"the first principal component has a cosine of {cosine:.3f} with the samples' mean, below {LEAST_COSINE}: "
            "it tells how samples vary, not where they point; use their mean"
        )
    aligned = component if cosine > 0 else -component
    return Component(aligned.float(), abs(cosine), share)


def project_out(samples: Tensor, direction: Tensor) -> Tensor:
    """Remove a direction from samples, (samples, D) float32.

    Args:
        samples: (samples, D).
        direction: (D,), not 0.
    """
    raw, unit = samples.double(), direction.double() / direction.double().norm()
    rest: Tensor = raw - (raw @ unit)[:, None] * unit
    return rest.float()


@dataclass(frozen=True, slots=True)
class ShuffledRange:
    """The norm of a mean difference, and its range under shuffled labels.

    Attributes:
        norm: Norm of the mean difference.
        low: Smallest norm under shuffled labels.
        high: Largest norm under shuffled labels.
        draws: Number of shuffles.
    """

    norm: float
    low: float
    high: float
    draws: int

    @property
    def outside(self) -> bool:
        """Whether the norm exceeds that of every shuffle: the direction is more than chance."""
        return self.norm > self.high

    def record(self) -> Mapping[str, Any]:
        """Return the values for an artifact's numbers."""
        return asdict(self)

    def check(self, what: str) -> None:
        """Raise an error if shuffled labels give a norm as large.

        Args:
            what: Name of the direction, such as "layer 3".

        Raises:
            FitError: The norm lies within the range.
        """
        if not self.outside:
            raise FitError(
                f"{what}: there is no direction to steer along: the mean difference has norm {self.norm:.4g}, and with "
                f"shuffled labels up to {self.high:.4g}; give more pairs, or texts that differ more"
            )


def shuffled_range(differences: Tensor, seed: int, draws: int = _DRAWS) -> ShuffledRange:
    """Compare the norm of a mean difference with its norms under random exchanges of each pair's labels.

    Args:
        differences: Difference of each pair, (pairs, ...).
        seed: Seed of the signs.
        draws: Number of shuffles.

    Raises:
        FitError: There are no pairs, or they hold NaN or infinity.
    """
    raw = _usable(differences).flatten(1).cpu()
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (draws, len(raw)), generator=generator).double() * 2 - 1
    labels = torch.cat([torch.ones(1, len(raw), dtype=torch.float64), signs])  # the true ones first
    norm, *shuffled = (labels @ raw / len(raw)).norm(dim=1).tolist()
    return ShuffledRange(norm, min(shuffled), max(shuffled), draws)
