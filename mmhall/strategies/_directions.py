"""Directions that tell two kinds of states apart, and whether there is one at all.

Where samples are few and states wide, a mean difference is never zero, and the first principal component of differences
is the direction in which they *vary*, which may have nothing to do with their mean. These functions say so instead of
returning a direction that steers nowhere. All compute in float64.
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
    """Return the mean of `ones` minus `others`, sample by sample, (...) float32.

    Args:
        ones: (samples, ...).
        others: The same; sample j is the partner of sample j.

    Raises:
        FitError: They are not of one shape, there are none, or they hold NaN or infinity.
    """
    if ones.shape != others.shape:
        raise FitError(f"samples of shape {tuple(ones.shape)} have no partners in {tuple(others.shape)}; give pairs")
    return _usable(ones.double() - others.double()).mean(dim=0).float()


@dataclass(frozen=True, slots=True)
class Component:
    """A first principal component.

    Attributes:
        direction: Of unit norm, (D,) float32, turned so that the samples' mean lies on its side.
        cosine: Of the angle to the samples' mean, in [`LEAST_COSINE`, 1].
        share: Of the samples' variance that lies along it, in [0, 1].
    """

    direction: Tensor
    cosine: float
    share: float


def sign_aligned_component(samples: Tensor) -> Component:
    """Return the first principal component of samples, on the side of their mean; by itself it has no sign.

    Args:
        samples: (samples, D), not centred.

    Raises:
        FitError: The samples do not vary, there are none, they hold NaN or infinity, or the component has nothing to do
            with their mean.
    """
    raw = _usable(samples)
    mean = raw.mean(dim=0)
    _, spectrum, rows = torch.linalg.svd(raw - mean, full_matrices=False)
    variance = float(spectrum.square().sum())
    if not variance > 1e-12 * float(raw.square().sum()):
        raise FitError(
            f"samples that do not differ from each other have no principal component, and there are {len(raw)} like "
            "that; give more pairs, or texts that differ more"
        )
    cosine = float(rows[0] @ mean / mean.norm().clamp_min(torch.finfo(torch.float64).tiny))
    if abs(cosine) < LEAST_COSINE:
        raise FitError(
            f"the first principal component has a cosine of {cosine:.3f} with the samples' mean, below {LEAST_COSINE}: "
            "it tells how samples vary, not where they point; use their mean"
        )
    aligned = rows[0] if cosine > 0 else -rows[0]
    return Component(aligned.float(), abs(cosine), float(spectrum[0].square()) / variance)


def project_out(samples: Tensor, direction: Tensor) -> Tensor:
    """Return samples without what lies along a direction, (samples, D) float32.

    Args:
        samples: (samples, D).
        direction: (D,), of any norm but 0.
    """
    raw, unit = samples.double(), direction.double() / direction.double().norm()
    left: Tensor = raw - (raw @ unit)[:, None] * unit
    return left.float()


@dataclass(frozen=True, slots=True)
class ShuffledRange:
    """The norm of a mean difference, and what it is when labels are shuffled.

    Attributes:
        norm: Of the mean difference.
        low: The smallest norm under shuffled labels.
        high: The largest.
        draws: How often they were shuffled.
    """

    norm: float
    low: float
    high: float
    draws: int

    @property
    def outside(self) -> bool:
        """Whether the norm is larger than under every shuffle: there is a direction to steer along."""
        return self.norm > self.high

    def record(self) -> Mapping[str, Any]:
        """Return it as an artifact's numbers hold it."""
        return asdict(self)

    def check(self, what: str) -> None:
        """Refuse a direction that shuffled labels give as well.

        Args:
            what: Whose direction it is, such as "layer 3".

        Raises:
            FitError: The norm lies within the range.
        """
        if not self.outside:
            raise FitError(
                f"{what}: there is no direction to steer along: the mean difference has norm {self.norm:.4g}, and with "
                f"shuffled labels up to {self.high:.4g}; give more pairs, or texts that differ more"
            )


def shuffled_range(differences: Tensor, seed: int, draws: int = _DRAWS) -> ShuffledRange:
    """Compare the norm of a mean difference with its norm when each pair's labels are exchanged by chance.

    Args:
        differences: Of each pair, (pairs, ...).
        seed: Of the signs.
        draws: How often signs are drawn.

    Raises:
        FitError: There are none, or they hold NaN or infinity.
    """
    raw = _usable(differences).flatten(1).cpu()
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (draws, len(raw)), generator=generator).double() * 2 - 1
    labels = torch.cat([torch.ones(1, len(raw), dtype=torch.float64), signs])  # the true ones first
    norm, *shuffled = (labels @ raw / len(raw)).norm(dim=1).tolist()
    return ShuffledRange(norm, min(shuffled), max(shuffled), draws)
