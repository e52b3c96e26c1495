"""Evaluation of stored answers: every metric of every group and strategy, compared with the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, median
from typing import TYPE_CHECKING

import numpy as np

from mmhall.benchmarks.base import (
    COUNTED,
    Benchmark,
    Counts,
    Figures,
    Item,
    Metric,
    OfficialFigures,
    series,
    share_equal,
)
from mmhall.benchmarks.evidence import Evidence, Lineup, lineup_of
from mmhall.benchmarks.evidence.captions import CaptionFigures, caption_figures
from mmhall.benchmarks.evidence.frontier import Frontier, find_frontier
from mmhall.benchmarks.evidence.means import GroupMeans
from mmhall.benchmarks.evidence.outcomes import outcomes_of
from mmhall.benchmarks.evidence.threshold import rankings, shifted_counts
from mmhall.benchmarks.evidence.ticks import Table
from mmhall.benchmarks.rules.thoughts import is_thoughts_only
from mmhall.results.statistics import Difference, Estimate, Resampler, count_turns, holm, mcnemar
from mmhall.results.store import Row

if TYPE_CHECKING:
    from mmhall.benchmarks.run.relabel import Relabelled

MEAN = "mean"  # the group of means over groups
Answers = Mapping[str, dict[str, Row]]
"""Strategy to item to answer."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One metric of one strategy in one group.

    Attributes:
        benchmark: Name of the benchmark.
        group: Name of the group.
        metric: The metric.
        strategy: The strategy.
        estimate: Value and interval.
        difference: Difference from the baseline on the same items; None for the baseline.
        runs: The figure of each run, where several are evaluated together.
    """

    benchmark: str
    group: str
    metric: Metric
    strategy: str
    estimate: Estimate
    difference: Difference | None
    runs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a strategy's answers: counted, and measured beside whatever else the machine did.

    Attributes:
        benchmark: Name of the benchmark.
        strategy: The strategy.
        seconds: Mean seconds per answer.
        tokens: Mean tokens per answer.
        ratio: Seconds over the baseline's, median over common batches; None for the baseline or without such batches.
        low: Smallest batch ratio.
        high: Largest batch ratio.
        rows: Positions that the decoder computes for each token of a batch's longest answer, of all branches and beams;
            None: not counted, or no answer has a second token.
        passes: Passes for each of these tokens; None: as for rows.
        prompt: Prompt positions computed, over those of the prompts: 1 for greedy without shared prefixes and padding;
            None: not counted.
    """

    benchmark: str
    strategy: str
    seconds: float
    tokens: float
    ratio: float | None
    low: float | None
    high: float | None
    rows: float | None = None
    passes: float | None = None
    prompt: float | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why some items could not be answered.

    Attributes:
        text: Error message of the items.
        count: Number of items with this message.
        first: Id of the first of these items.
    """

    text: str
    count: int
    first: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluation of one benchmark.

    Attributes:
        cells: Estimates of every metric.
        costs: Cost of every strategy.
        expected: Number of items.
        scored: Number of items that every strategy has answered; only these count.
        sizes: Group to its number of (items, clusters) that count.
        truncated: Strategy to the number of answers cut off by the length limit.
        thoughts_only: Strategy to the number of answers that hold thoughts only, which no rule can read.
        reasons: Strategy to why items could not be answered, the most frequent reason first.
        remarks: Notes for the report on how answers were read.
        official: Figures of the authors' script, see `Benchmark.official_figures`.
        evidence: What speaks for each strategy, by group.
        means: Estimates of the means over the groups of `Benchmark.grid`, in the group `MEAN`.
        relabelled: The same answers read with other labels; None: there are none.
        captions: Hallucination by position and length, and signs of degeneration, of each strategy's captions.
        frontiers: Group of captions to what shorter captions of the baseline reach.
    """

    cells: tuple[Cell, ...]
    costs: tuple[Cost, ...]
    expected: int
    scored: int
    sizes: Mapping[str, tuple[int, int]]
    truncated: Mapping[str, int]
    thoughts_only: Mapping[str, int]
    reasons: Mapping[str, tuple[Reason, ...]]
    remarks: tuple[str, ...] = ()
    official: OfficialFigures = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    means: tuple[Cell, ...] = ()
    relabelled: Relabelled | None = None
    captions: tuple[CaptionFigures, ...] = ()
    frontiers: Mapping[str, Frontier] = field(default_factory=dict)

    @property
    def failed(self) -> dict[str, int]:
        """Strategy to the number of items that could not be answered."""
        return {strategy: sum(reason.count for reason in reasons) for strategy, reasons in self.reasons.items()}


def evaluate(
    benchmark: Benchmark,
    items: Sequence[Item],
    rows: Sequence[Row],
    strategies: Sequence[str],
    lineup: Lineup | None = None,
    only: Figures | None = None,
) -> Evaluation:
    """Evaluate answers; the first strategy is the baseline. Random twins have no cells: they are in the evidence.

    Args:
        benchmark: The benchmark.
        items: The run's items.
        rows: Stored answers, in any order.
        strategies: As written for the run.
        lineup: What each strategy is compared with; None: as the strategies are written.
        only: Figures to estimate, and nothing else: no evidence, no figures of captions; None: everything.
    """
    lineup = lineup or lineup_of(strategies)
    arms, strategies = lineup.arms, lineup.everyone
    answers: Answers = {s: {} for s in strategies}
    for row in rows:
        if row.error is None and row.strategy in answers:
            answers[row.strategy][row.item] = row
    scored = [item for item in items if all(item.id in own for own in answers.values())]
    cells: list[Cell] = []
    evidence: list[Evidence] = []
    captions: list[CaptionFigures] = []
    frontiers: dict[str, Frontier] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for group in benchmark.groups:
        members = [item for item in scored for named in item.groups if named == group]
        if not members or (group in benchmark.pairwise and len(arms) == 1):
            continue
        sizes[group] = len(members), len({item.cluster for item in members})
        if only is not None and all(group != wanted for wanted, _ in only):
            continue
        own, weighed, figures, frontier = _group(benchmark, group, members, answers, lineup, only)
        cells += own
        evidence += weighed
        captions += figures
        frontiers |= {group: frontier} if frontier is not None else {}
    chosen = {item.id for item in scored}
    counted = [row for row in rows if row.error is None and row.item in chosen]
    return Evaluation(
        tuple(cells),
        tuple(_cost(benchmark.name, s, arms[0], counted) for s in arms if scored),
        len(items),
        len(scored),
        sizes,
        {s: sum(r.stopped_by == "length" for r in counted if r.strategy == s) for s in arms},
        {s: sum(is_thoughts_only(r.text) for r in counted if r.strategy == s) for s in arms},
        {s: _reasons(items, [row for row in rows if row.strategy == s]) for s in strategies},
        benchmark.reading_remarks(scored, counted),
        benchmark.official_figures(scored, [row for row in counted if row.strategy in arms]) if only is None else {},
        tuple(evidence),
        means=_means(benchmark, [group for group in benchmark.grid if group in sizes], scored, answers, arms, only),
        captions=tuple(captions),
        frontiers=frontiers,
    )


def _reasons(items: Sequence[Item], rows: Sequence[Row]) -> tuple[Reason, ...]:
    """Count the error messages of one strategy."""
    errors = {row.item: row.error for row in rows if row.error is not None}
    failed: dict[str, list[str]] = {}
    for item in items:
        if item.id in errors:
            failed.setdefault(errors[item.id], []).append(item.id)
    reasons = [Reason(text, len(ids), ids[0]) for text, ids in failed.items()]
    return tuple(sorted(reasons, key=lambda reason: -reason.count))


def _group(
    benchmark: Benchmark,
    group: str,
    members: Sequence[Item],
    answers: Answers,
    lineup: Lineup,
    only: Figures | None,
) -> tuple[list[Cell], tuple[Evidence, ...], tuple[CaptionFigures, ...], Frontier | None]:
    """Estimate every metric of a group for every arm, and weigh the arms; the group has its own bootstrap draws."""
    base, arms, pairwise = lineup.arms[0], lineup.arms, group in benchmark.pairwise
    rows = {s: [answers[s][item.id] for item in members] for s in (lineup.everyone if only is None else arms)}
    alone = {s: share_equal(benchmark.counts(members, rows[s])) for s in ([base] if pairwise else rows)}
    counts = {
        s: (
            benchmark.paired(members, rows[s], rows[base], group) if pairwise and s != base else (alone[s], alone[base])
        )
        for s in arms
    }
    resampler = Resampler([item.cluster for item in members])
    cells = [
        cell
        for metric in benchmark.metrics
        if only is None or (group, metric.name) in only
        for cell in _correct_p_values([_cell(benchmark, group, metric, s, base, counts, resampler) for s in arms])
    ]
    if pairwise or only is not None:
        return cells, (), (), None
    outcomes = {s: outcomes_of(members, alone[s]) for s in arms if benchmark.yes_no and len(arms) > 1}
    frontier = find_frontier(benchmark, members, rows, alone, lineup)
    table = Table(
        benchmark=benchmark.name,
        group=group,
        metric=benchmark.primary,
        lineup=lineup,
        rows=rows,
        counts=alone,
        resampler=resampler,
        differences={cell.strategy: cell.difference for cell in cells if cell.metric is benchmark.primary},
        derived=frontier.controls if frontier is not None else {},
        shifted=shifted_counts(benchmark, members, rows[base], {s: rows[s] for s in arms[1:] if lineup.is_greedy}),
        rankings=rankings(rows, outcomes, resampler),
        outcomes=outcomes,
    )
    figures = caption_figures(benchmark, group, members, {s: rows[s] for s in arms}, alone)
    return cells, table.evidence(), figures, frontier


def _means(
    benchmark: Benchmark,
    groups: Sequence[str],
    scored: Sequence[Item],
    answers: Answers,
    arms: Sequence[str],
    only: Figures | None,
) -> tuple[Cell, ...]:
    """Estimate the mean over groups of each metric of the grid; none of a single group."""
    if len(groups) < 2 or (only is not None and all(group != MEAN for group, _ in only)):
        return ()
    means = GroupMeans(benchmark, {g: [i for i in scored for named in i.groups if named == g] for g in groups})
    counts = {arm: means.counts(answers[arm]) for arm in arms}
    cells: list[Cell] = []
    for metric in (metric for metric in benchmark.metrics if metric.name in benchmark.grid_metrics):
        compared = {arm: means.difference(metric, counts[arm], counts[arms[0]]) for arm in arms[1:]}
        own = [
            Cell(benchmark.name, MEAN, metric, arm, means.estimate(metric, counts[arm]), compared.get(arm))
            for arm in arms
        ]
        cells += _correct_p_values(own)
    return tuple(cells)


def _correct_p_values(cells: Sequence[Cell]) -> list[Cell]:
    """Correct the p-values of one metric for the number of strategies compared."""
    compared = [cell.difference for cell in cells if cell.difference is not None]
    corrected = iter(holm([difference.p for difference in compared]))
    return [
        cell if cell.difference is None else replace(cell, difference=replace(cell.difference, holm=next(corrected)))
        for cell in cells
    ]


def _cell(
    benchmark: Benchmark,
    group: str,
    metric: Metric,
    strategy: str,
    baseline: str,
    counts: Mapping[str, tuple[Sequence[Counts], Sequence[Counts]]],
    resampler: Resampler,
) -> Cell:
    counted, base_counted = counts[strategy]
    if metric.of is not None:
        sums, base_sums = ([series(each, {name: 1}) for name in metric.sums] for each in (counted, base_counted))
        compared = None if strategy == baseline or metric.fixed else resampler.difference_of(metric.of, sums, base_sums)
        return Cell(benchmark.name, group, metric, strategy, resampler.estimate_of(metric.of, sums), compared)
    over, under = series(counted, metric.over), series(counted, metric.under)
    difference = None
    if strategy != baseline and not metric.fixed:
        difference = resampler.difference(
            over, under, series(base_counted, metric.over), series(base_counted, metric.under)
        )
        if difference is not None and metric.flag is not None:
            flags = [np.array([c[metric.flag] for c in each], bool) for each in (base_counted, counted)]
            difference = replace(difference, exact=mcnemar(*flags), turned=count_turns(*flags))
            if resampler.one_each and difference.exact is not None:
                difference = replace(difference, p=difference.exact, test="exact McNemar")
    return Cell(benchmark.name, group, metric, strategy, resampler.estimate(over, under), difference)


def _cost(benchmark: str, strategy: str, baseline: str, rows: Sequence[Row]) -> Cost:
    own_rows = [row for row in rows if row.strategy == strategy]
    seconds, tokens = mean(row.seconds for row in own_rows), mean(row.new_tokens for row in own_rows)
    cost = Cost(benchmark, strategy, seconds, tokens, None, None, None, *_counted(own_rows))
    if strategy == baseline:
        return cost
    seconds_by_batch, base_by_batch = _by_batch(own_rows), _by_batch([row for row in rows if row.strategy == baseline])
    ratios = [seconds_by_batch[batch] / base_by_batch[batch] for batch in seconds_by_batch if batch in base_by_batch]
    return replace(cost, ratio=median(ratios), low=min(ratios), high=max(ratios)) if ratios else cost


def _counted(rows: Sequence[Row]) -> tuple[float | None, float | None, float | None]:
    """Return rows and passes per token, and prompt positions computed over those of the prompts; None: unknown."""
    found = [(row.extra or {}).get(COUNTED) for row in rows]
    counts = [one for one in found if one is not None and one["prompt_reads"]]
    if len(counts) < len(found):
        return None, None, None
    keys = ("rows", "passes", "tokens", "prompt_reads", "prompt_tokens")
    total = {key: sum(one[key] for one in counts) for key in keys}
    # in runs from before rows left their batch, each row read as many tokens as the longest
    read = sum(one.get("read", one["tokens"]) for one in counts)
    by_row = total["rows"] / read if read else None
    by_pass = total["passes"] / total["tokens"] if total["tokens"] else None
    return by_row, by_pass, total["prompt_reads"] / total["prompt_tokens"]


def _by_batch(rows: Sequence[Row]) -> dict[int, float]:
    """Return the mean seconds per answer of each batch."""
    batches: dict[int, list[float]] = {}
    for row in rows:
        batches.setdefault(row.batch, []).append(row.seconds)
    return {batch: mean(seconds) for batch, seconds in batches.items()}
