"""Confidence intervals and paired tests for ratios of counts, clustered by picture.

Items of one picture are not independent, so pictures are resampled instead of items. Two strategies are
compared on the same bootstrap draws. Everything is seeded: the same answers give the same digits. `intervals` has the
intervals, and what they show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from mmhall.results.intervals import are_shares, detectable, percentile_interval, share_interval, unseen

DRAWS = 10_000
_AT_ONCE = 200_000  # counts multiplied at a time, so that they fit a CPU cache
Array = npt.NDArray[np.float64]
Figure = Callable[..., Array]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio with its 95 % interval; value, low and high are None if the denominator is 0.

    Attributes:
        value: The ratio.
        low: Lower end.
        high: Upper end.
        over: Numerator; for a figure that is no ratio, its value.
        under: Denominator; for a figure that is no ratio, 1.
    """

    value: float | None
    low: float | None
    high: float | None
    over: float
    under: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a strategy's ratio from the baseline's.

    Attributes:
        value: Strategy minus baseline.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided p-value.
        test: "exact McNemar", "paired permutation" or "paired bootstrap".
        holm: The p-value corrected for all strategies compared in this metric (Holm); None: not corrected.
        exact: The exact McNemar p-value over items, for a share of items; None for other ratios.
        turned: For a share of items: how many turned from 0 to 1, and from 1 to 0.
        bound: Largest effect, in either direction, that two one-sided tests at 5 % do not rule out.
        detectable: Smallest difference that would be found with 80 % power at 5 %, uncorrected; None: none would.
    """

    value: float
    low: float
    high: float
    p: float
    test: str
    holm: float | None = None
    exact: float | None = None
    turned: tuple[int, int] | None = None
    bound: float | None = None
    detectable: float | None = None


class Resampler:
    """A cluster bootstrap: draws pictures with replacement, the same draws for every ratio and strategy.

    It takes two bytes for each draw and picture: 100 MB for 5 000 pictures.

    Attributes:
        one_each: Whether every picture has one item.
    """

    def __init__(self, clusters: Sequence[str], seed: int = 0, draws: int = DRAWS) -> None:
        """Prepare the draws.

        Args:
            clusters: Picture of each item.
            seed: Seed of the draws.
            draws: Number of draws.
        """
        self.one_each = len(set(clusters)) == len(clusters)
        names, self._of = np.unique(np.asarray(clusters), return_inverse=True)
        self._draws, self._pictures = draws, len(names)
        self._weights, self._swaps = _draw(self._pictures, seed, draws)

    def estimate(self, over: Array, under: Array) -> Estimate:
        """Estimate sum(over) / sum(under) over items: a share by its score interval, another ratio by the bootstrap."""
        top, bottom = float(over.sum()), float(under.sum())
        if bottom == 0:
            return Estimate(None, None, None, top, bottom)
        tops, bottoms = self._by_picture(over), self._by_picture(under)
        if are_shares(tops, bottoms):
            return Estimate(top / bottom, *share_interval(tops, bottoms), top, bottom)
        low, high = percentile_interval(ratio(self.sums(over), self.sums(under)), self._pictures)
        return Estimate(top / bottom, low, high, top, bottom)

    def estimate_of(self, figure: Figure, counts: Sequence[Array]) -> Estimate:
        """Estimate a figure that is a function of sums over items; NaN means no value."""
        value = float(figure(*(c.sum() for c in counts)))
        if not np.isfinite(value):
            return Estimate(None, None, None, 0.0, 0.0)
        low, high = percentile_interval(figure(*map(self.sums, counts)), self._pictures)
        return Estimate(value, low, high, value, 1.0)

    def difference(self, over: Array, under: Array, base_over: Array, base_under: Array) -> Difference | None:
        """Compare two ratios on the same items; None if a denominator is 0.

        The interval is a paired bootstrap, and no narrower than the number of pictures that differ allows. The p-value
        is from a permutation test: if strategy and baseline were alike, exchanging their counts within a picture would
        change nothing.
        """
        return self.difference_of(ratio, (over, under), (base_over, base_under))

    def difference_of(self, figure: Figure, counts: Sequence[Array], base: Sequence[Array]) -> Difference | None:
        """Compare a function of sums over the same items; None if a value is missing. See `difference`."""
        value = float(figure(*(c.sum() for c in counts)) - figure(*(c.sum() for c in base)))
        if not np.isfinite(value):
            return None
        drawn = figure(*map(self.sums, counts)) - figure(*map(self.sums, base))
        moved, size = self._moved(figure, counts, base)
        low, high = self._interval(drawn, value, moved, size, 0.95)
        bound = max(map(abs, self._interval(drawn, value, moved, size, 0.9)))
        exchanged = self._exchanged(figure, counts, base)
        exchanged = np.abs(exchanged[np.isfinite(exchanged)])
        as_extreme = int((exchanged >= abs(value) - 1e-12).sum())
        p = (as_extreme + 1) / (len(exchanged) + 1)
        found = detectable(low, high, self._pictures)
        return Difference(value, low, high, p, "paired permutation", bound=bound, detectable=found)

    def _moved(self, figure: Figure, counts: Sequence[Array], base: Sequence[Array]) -> tuple[int, float]:
        """Count the pictures that make a difference, and return its mean size; with none, the share of one picture."""
        own, other = ([self._by_picture(c) for c in each] for each in (counts, base))
        with np.errstate(invalid="ignore", divide="ignore"):
            alone = figure(*(a.sum() - a + b for a, b in zip(own, other, strict=True)))
        effects = np.abs(figure(*(a.sum() for a in own)) - alone)
        effects = effects[np.isfinite(effects) & (effects > 1e-12)]
        return len(effects), float(effects.mean()) if len(effects) else 1 / self._pictures

    def _interval(self, drawn: Array, value: float, moved: int, size: float, level: float) -> tuple[float, float]:
        """Return the interval of a difference: of the bootstrap, or of the pictures that could differ, if wider."""
        low, high = percentile_interval(drawn, self._pictures, level)
        rest = unseen(moved, self._pictures, level) * self._pictures * size
        return min(low, value - rest), max(high, value + rest)

    def difference_from_mean(
        self, figure: Figure, counts: Sequence[Array], others: Sequence[Sequence[Array]]
    ) -> Difference | None:
        """Compare a function of sums with its mean over others, such as random twins; None if a value is missing.

        Interval and p-value are of a paired bootstrap: one strategy and a mean over several cannot be exchanged.
        """
        value = figure(*(c.sum() for c in counts)) - np.mean([figure(*(c.sum() for c in other)) for other in others])
        drawn = figure(*map(self.sums, counts))
        for other in others:
            drawn = drawn - figure(*map(self.sums, other)) / len(others)
        return bootstrap_difference(float(value), drawn, self._pictures)

    def _exchanged(self, figure: Figure, counts: Sequence[Array], base: Sequence[Array]) -> Array:
        """Return the difference of a figure after exchanging strategy and baseline in random pictures, (draws,)."""
        strategy_sums, base_sums = [], []
        for values, base_values in zip(counts, base, strict=True):
            top, base_top = self._by_picture(values), self._by_picture(base_values)
            swapped = self._times(self._swaps, base_top - top)
            strategy_sums.append(top.sum() + swapped)
            base_sums.append(base_top.sum() - swapped)
        difference: Array = figure(*strategy_sums) - figure(*base_sums)
        return difference

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return self._pictures

    @property
    def draws(self) -> int:
        """Number of draws."""
        return self._draws

    @property
    def picture_of(self) -> npt.NDArray[np.intp]:
        """The 0-based picture of each item, (items,)."""
        return self._of

    def drawn(self, values: int) -> Iterator[tuple[slice, Array]]:
        """Yield slices of the draws, and how often each picture was taken in them, (draws in the slice, pictures).

        Args:
            values: Number of values that are made of each draw; slices are small enough to hold those of all draws.
        """
        for part in _parts(self._draws, max(values, self._pictures)):
            yield part, self._weights[part].astype(np.float64)

    def sums(self, values: Array) -> Array:
        """Sum values over the items of the drawn pictures, (draws,)."""
        return self._times(self._weights, self._by_picture(values))

    def _by_picture(self, values: Array) -> Array:
        """Sum values of items over each picture, (pictures,)."""
        summed: Array = np.bincount(self._of, values, self._pictures)  # type: ignore[assignment]
        return summed

    def _times(self, counts: npt.NDArray[np.uint8], values: Array) -> Array:
        """Multiply counts, (draws, pictures), with a value for each picture, a few draws at a time, (draws,)."""
        drawn = np.empty(self._draws)
        for part in self._parts():
            drawn[part] = counts[part].astype(np.float64) @ values
        return drawn

    def _parts(self) -> Iterator[slice]:
        """Yield slices of the draws that are small enough to convert to float64 at once."""
        return _parts(self._draws, self._pictures)


@lru_cache(maxsize=1)  # the groups of a benchmark are often of the same pictures
def _draw(count: int, seed: int, draws: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw how often each of `count` pictures is taken, and whether it is swapped, each (draws, count), read-only."""
    rng = np.random.default_rng(seed)
    weights = np.empty((draws, count), np.uint8)  # no picture is ever drawn 256 times
    for part in _parts(draws, count):
        weights[part] = rng.multinomial(count, np.full(count, 1 / count), size=part.stop - part.start)
    swaps = np.empty((draws, count), np.uint8)
    for part in _parts(draws, count):
        swaps[part] = rng.integers(0, 2, (part.stop - part.start, count))
    weights.flags.writeable = swaps.flags.writeable = False
    return weights, swaps


def _parts(draws: int, count: int) -> Iterator[slice]:
    size = max(1, _AT_ONCE // count)
    for start in range(0, draws, size):
        yield slice(start, min(start + size, draws))


def bootstrap_difference(value: float, drawn: Array, pictures: int | None = None) -> Difference | None:
    """Return a difference with the interval and p-value of its bootstrap draws; None without a value.

    The two-sided p-value is twice the smaller share of draws on one side of 0, and at least 1 / draws: of ten draws
    with one below 0, it is 0.2.

    Args:
        value: The difference.
        drawn: That of each draw, (draws,); those without a value do not count.
        pictures: Number of pictures that were drawn from; None: many.
    """
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(drawn):
        return None
    low, high = percentile_interval(drawn, pictures)
    share = min(float((drawn <= 0).mean()), float((drawn >= 0).mean()))
    return Difference(value, low, high, min(1.0, max(2 * share, 1 / len(drawn))), "paired bootstrap")


def ratio(over: Array, under: Array) -> Array:
    """Divide element by element; NaN or infinite where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        divided: Array = np.asarray(over, np.float64) / np.asarray(under, np.float64)
    return divided


def mcnemar(base: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Return the exact two-sided McNemar p-value of two paired series of outcomes.

    57 pairs lost and 58 won give 1.0; 75 and 55 give 0.09525; 38 and 59 give 0.04173.
    """
    won, lost = count_turns(base, other)
    return min(1.0, 2 * float(bdtr(min(lost, won), lost + won, 0.5)))


def count_turns(base: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Count the pairs that turn from 0 to 1, and those that turn from 1 to 0."""
    return int((~base & other).sum()), int((base & ~other).sum())


def holm(ps: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons by the step-down method of Holm (1979).

    0.01, 0.04 and 0.03 give 0.03, 0.06 and 0.06: the smallest times three, the next times two, and none below
    the one before it.
    """
    corrected, most = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        most = max(most, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = most
    return corrected
