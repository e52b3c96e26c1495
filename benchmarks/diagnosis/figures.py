"""Figures of a diagnosis: values with intervals, and what could not be measured with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmhall.benchmarks.base import Metric
from mmhall.errors import MmhallError
from mmhall.results.statistics import Array, Estimate, Resampler

HALLUCINATION, CAUSES, MECHANISMS, ATTENTION = "hallucination", "causes", "mechanisms", "attention"
GROUPS = (HALLUCINATION, CAUSES, MECHANISMS, ATTENTION)


class UnmeasuredError(MmhallError):
    """A figure cannot be measured on this model or data; the message says why."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        key: Its name in files of targets and in JSON.
        group: One of `GROUPS`.
        title: What it is, in words.
        estimate: Value with its 95 % interval, by picture; the value is None where there is nothing to divide by.
        percent: Whether value and interval are shown times 100.
        layers: The same of single decoder layers, 0-based, where it is measured in layers.
        note: What a reader should know beside the value; "": nothing.
        short: Heading of its column in the table of layers.
        heads: Values of single heads by 0-based decoder layer, (H,) each, where it is measured in heads.
        by_head: Title of the map of heads, where it differs from `title`.
        places: Values by place in a caption, each with the name of the place.
    """

    key: str
    group: str
    title: str
    estimate: Estimate
    percent: bool = True
    layers: Mapping[int, Estimate] = field(default_factory=dict)
    note: str = ""
    short: str = ""
    heads: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    by_head: str = ""
    places: Sequence[tuple[str, Estimate]] = ()

    @property
    def shown(self) -> tuple[float, float, float] | None:
        """Value and interval in the unit they are shown in; None without a value."""
        e, scale = self.estimate, 100.0 if self.percent else 1.0
        if e.value is None or e.low is None or e.high is None:
            return None
        return e.value * scale, e.low * scale, e.high * scale


@dataclass(frozen=True, slots=True)
class Missing:
    """A figure that could not be measured.

    Attributes:
        title: The figure or figures, in words.
        reason: Why.
    """

    title: str
    reason: str


def of_metric(key: str, metric: Metric, title: str, counts: Sequence[Mapping[str, float]], draws: Resampler) -> Figure:
    """Estimate a metric of a benchmark from the counts of its items.

    Args:
        key: Key of the figure.
        metric: The metric, a ratio of sums.
        title: Title of the figure.
        counts: Counts of each item, in the order of the resampler.
        draws: The bootstrap draws of the items.
    """
    over, under = metric.terms([dict(c) for c in counts])
    return Figure(key, HALLUCINATION, title, draws.estimate(over, under), metric.percent)


def relative(over: Array, under: Array, base_over: Array, base_under: Array) -> Array:
    """Return one ratio over another, element by element; NaN where one has nothing to divide by.

    1 of 10 over 2 of 5 is 0.25.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        divided: Array = np.asarray((over / under) / (base_over / base_under))
    return np.where(np.isfinite(divided), divided, np.nan)
