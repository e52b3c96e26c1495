"""Figures of captions that no single ratio shows: hallucination by position and by length, and signs of degeneration.

Hazard      Of captions with at least k mentions, the share whose k-th mention is wrong. Late mentions are wrong more
            often, so that captions with fewer mentions have fewer wrong ones.
Slope       Least squares of the share of captions with a wrong mention on the mean number of words, over one strategy's
            own captions cut to their first words and uncut (the length-hallucination curve of LeHaCE). Its value at the
            baseline's length compares strategies as if they wrote equally much.
Unmatched   Where captions are cut to equally many mentions: the pictures of which one caption names nothing.
Text        Signs of degeneration (`rules/degeneration`), and captions that reached the token limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmhall.benchmarks.base import Array, Benchmark, Counts, Item, Metric
from mmhall.benchmarks.rules.degeneration import distinct, repeats_itself, self_bleu, words_of
from mmhall.benchmarks.rules.length import WORDS, count_sentences, cut
from mmhall.benchmarks.rules.thoughts import blank_thoughts
from mmhall.results.statistics import Difference, Estimate, Resampler, bootstrap_difference
from mmhall.results.store import Row

POSITIONS = 8
COMPARED = 50  # captions of self-BLEU
_DRAWS = 2_000


@dataclass(frozen=True, slots=True)
class Hazard:
    """The mentions in one position of all captions.

    Attributes:
        position: 1 for the first mention.
        wrong: Number of captions whose mention there is wrong.
        count: Number of captions with a mention there.
    """

    position: int
    wrong: int
    count: int


@dataclass(frozen=True, slots=True)
class LengthSlope:
    """The line through the share of captions with a wrong mention over their mean number of words.

    Attributes:
        points: Mean number of words and share, for each cut.
        slope: Rise of the share for each word.
        length: The baseline's mean number of words.
        value: Value of the line at that length.
        difference: Its difference from the baseline's; None for the baseline.
    """

    points: tuple[tuple[float, float], ...]
    slope: Estimate
    length: float
    value: Estimate
    difference: Difference | None


@dataclass(frozen=True, slots=True)
class TextFigures:
    """Signs of degeneration of one strategy's captions; shares in [0, 1], NaN without captions to measure.

    Attributes:
        distinct_1: Different words over words, mean over captions.
        distinct_2: Different pairs of neighbouring words over pairs, mean over captions.
        repeating: Share of captions with four words said three times or more.
        at_limit: Share of captions that reached the token limit; NaN where nothing is known of it.
        self_bleu: Self-BLEU-4 of the first captions.
        words: Words per caption.
        sentences: Sentences per caption.
    """

    distinct_1: float
    distinct_2: float
    repeating: float
    at_limit: float
    self_bleu: float
    words: float
    sentences: float

    def poorer_than(self, base: TextFigures) -> bool:
        """Tell whether distinct-1 is more than a tenth below another's."""
        return self.distinct_1 < 0.9 * base.distinct_1 - 1e-9

    def more_cut_off_than(self, base: TextFigures) -> bool:
        """Tell whether the share of captions at the limit is more than 5 points above another's."""
        return self.at_limit > base.at_limit + 0.05 + 1e-9


@dataclass(frozen=True, slots=True)
class CaptionFigures:
    """The figures of one strategy in one group.

    Attributes:
        benchmark: Name of the benchmark.
        group: Name of the group.
        strategy: The strategy.
        share: The share that grows with the words, such as CHAIR_s.
        hazard: Hallucination by position of the mention.
        slope: Hallucination by length; None if no caption is longer than the shortest cut.
        unmatched: Pictures of which this strategy's caption or the baseline's names nothing.
        pictures: Number of pictures.
        text: Signs of degeneration.
    """

    benchmark: str
    group: str
    strategy: str
    share: Metric
    hazard: tuple[Hazard, ...]
    slope: LengthSlope | None
    unmatched: int
    pictures: int
    text: TextFigures


def caption_figures(
    benchmark: Benchmark,
    group: str,
    items: Sequence[Item],
    rows: Mapping[str, Sequence[Row]],
    counts: Mapping[str, Sequence[Counts]],
) -> tuple[CaptionFigures, ...]:
    """Return the figures of each strategy, the baseline first; none without captions.

    Args:
        benchmark: The benchmark.
        group: Name of the group.
        items: Items of the group.
        rows: Strategy to its captions, in the order of the items, the baseline first.
        counts: Strategy to the counts of its captions.
    """
    share = next((metric for metric in benchmark.metrics if metric.flag is not None), None)
    if not benchmark.trades or share is None:
        return ()
    resampler = Resampler([item.cluster for item in items], draws=_DRAWS)
    base, found = next(iter(rows)), list[CaptionFigures]()
    marks = {
        name: [benchmark.mark(i, row.text) for i, row in zip(items, own, strict=True)] for name, own in rows.items()
    }
    wrong = {name: [[not right for *_, right in one] for one in own] for name, own in marks.items()}
    lines = {name: _Line.of(rows[name], counts[name], marks[name], resampler) for name in rows}
    for name, own in rows.items():
        bare = [not (ours and theirs) for ours, theirs in zip(wrong[name], wrong[base], strict=True)]
        length = float(np.mean([counted["words"] for counted in counts[base]]))
        slope = lines[name].slope(lines[base] if name != base else None, length)
        text = text_figures(own)
        found.append(
            CaptionFigures(benchmark.name, group, name, share, hazards(wrong[name]), slope, sum(bare), len(items), text)
        )
    return tuple(found)


def hazards(wrong: Sequence[Sequence[bool]]) -> tuple[Hazard, ...]:
    """Return the hazard of each position that has mentions, at most eight.

    Args:
        wrong: For each caption whether its mentions are wrong, in order.

    >>> [(h.wrong, h.count) for h in hazards([[0, 0, 1, 0, 1, 1], [0, 1]])]
    [(0, 2), (1, 2), (1, 1), (0, 1), (1, 1), (1, 1)]
    """
    columns = ([one[k] for one in wrong if len(one) > k] for k in range(POSITIONS))
    return tuple(Hazard(k, sum(map(bool, column)), len(column)) for k, column in enumerate(columns, 1) if column)


def least_squares(x: Array, y: Array) -> tuple[Array, Array]:
    """Return slope and intercept of the lines through points, (...) each; NaN where all x are equal.

    Args:
        x: (points, ...).
        y: (points, ...).

    >>> slope, start = least_squares(np.array([40.0, 60, 80, 100]), np.array([10.0, 16, 19, 25]))
    >>> round(float(slope), 3), round(float(start), 3), round(float(start + 70 * slope), 3)
    (0.24, 0.7, 17.5)
    """
    away = x - x.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (away * y).sum(axis=0) / (away**2).sum(axis=0)
    return slope, y.mean(axis=0) - slope * x.mean(axis=0)


@dataclass(frozen=True, slots=True)
class _Line:
    """Mean words and share of captions with a wrong mention for each cut: all pictures, and the bootstrap draws."""

    words: Array  # (cuts,)
    share: Array
    drawn_words: Array  # (cuts, draws)
    drawn_share: Array

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        counts: Sequence[Counts],
        marks: Sequence[Sequence[tuple[int, int, bool]]],
        resampler: Resampler,
    ) -> _Line:
        """Cut the captions of a strategy; a mention counts if it ends within the cut."""
        words = np.array([counted["words"] for counted in counts])
        texts = [blank_thoughts(row.text) for row in rows]
        first_wrong = np.array([min((end for _, end, right in one if not right), default=math.inf) for one in marks])
        cuts = []
        for most in [*(most for most in WORDS if most < words.max(initial=0)), math.inf]:
            ends = [len(text) if most == math.inf else len(cut(text, int(most))) for text in texts]
            cuts.append((np.minimum(words, most), (first_wrong <= ends).astype(float)))
        pictures = resampler.sums(np.ones(len(rows)))
        drawn = [np.stack([resampler.sums(one[k]) / pictures for one in cuts]) for k in (0, 1)]
        return cls(*(np.array([one[k].mean() for one in cuts]) for k in (0, 1)), *drawn)

    def slope(self, base: _Line | None, length: float) -> LengthSlope | None:
        """Fit the line, and compare its value at a length with the baseline's; None for a single point."""
        if len(self.words) < 2:
            return None
        slope, drawn_slope, value, drawn = self._at(length)
        difference = None
        if base is not None and len(base.words) > 1:
            *_, base_value, base_drawn = base._at(length)
            difference = bootstrap_difference(value - base_value, drawn - base_drawn)
        points = tuple(zip(self.words.tolist(), self.share.tolist(), strict=True))
        return LengthSlope(points, _estimate(slope, drawn_slope), length, _estimate(value, drawn), difference)

    def _at(self, length: float) -> tuple[float, Array, float, Array]:
        """Return the slope, its draws, the value at a length, and its draws."""
        slope, start = least_squares(self.words, self.share)
        drawn_slope, drawn_start = least_squares(self.drawn_words, self.drawn_share)
        return float(slope), drawn_slope, float(start + slope * length), drawn_start + drawn_slope * length


def _estimate(value: float, drawn: Array) -> Estimate:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high), value, 1.0)


def text_figures(rows: Sequence[Row]) -> TextFigures:
    """Measure the signs of degeneration of captions, without a model's thoughts."""
    texts = [blank_thoughts(row.text) for row in rows]
    words = [words_of(text) for text in texts]
    return TextFigures(
        _mean([distinct(one, 1) for one in words]),
        _mean([distinct(one, 2) for one in words]),
        _mean([repeats_itself(one) for one in words]),
        _mean([row.stopped_by == "length" for row in rows if row.stopped_by]),  # imported answers may not say
        self_bleu(words[:COMPARED]),
        _mean([len(one) for one in words]),
        _mean([count_sentences(text) for text in texts]),
    )


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are numbers; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
