"""Three questions about each row of a table: is it better than the baseline, than its random twin, than plain controls?

Baseline   The paired test of the table, corrected for its rows (Holm).
Twin       The same edit with a random choice: a gain that the twins have, too, is not due to the choice. The figure
           must lie outside the range of the twins, on the good side, and its difference from their mean must be
           significant (paired bootstrap by picture, Holm). Five twins alone prove nothing: at best 1 in 6 by rank.
Controls   What needs no method: the plain controls of the run; for captions those of the baseline, cut (`frontier`);
           for yes/no answers the baseline's scores, shifted (`threshold`). All must be beaten (Holm over all controls
           of all rows).
No answer  "not run" where there is nothing to compare with. Two decoding rules are not compared: sampled answers score
           points below greedy ones, whatever the method. Nor are sampled answers of fewer than three seeds.
Nothing    Where less than one answer in a hundred differs from the baseline's, nothing was done, and nothing is ticked.
No effect  Is said only where two one-sided tests at 5 % rule out any effect as large as the metric's margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mmhall.benchmarks.base import Counts, Metric
from mmhall.benchmarks.evidence.lineup import Lineup
from mmhall.benchmarks.evidence.outcomes import Outcomes, Turns, turns_between
from mmhall.benchmarks.evidence.threshold import SHIFTED, Ranking, best_balanced
from mmhall.results.separation import Auroc
from mmhall.results.statistics import Difference, Resampler, holm
from mmhall.results.store import Row

Tick = Literal["yes", "no", "not run"]
LEVEL = 0.05
LEAST_CHANGED = 0.01  # share of answers
AUROC = Metric("AUROC", {}, {}, "higher")


@dataclass(frozen=True, slots=True)
class Control:
    """The comparison of a strategy with one control.

    Attributes:
        name: The control.
        difference: Strategy minus control; None: it has no value.
        remark: What a reader must know about it; "" if nothing.
    """

    name: str
    difference: Difference | None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for one strategy in one group, on the benchmark's primary metric.

    Attributes:
        benchmark: Name of the benchmark.
        group: Name of the group.
        metric: The metric.
        strategy: The strategy.
        baseline: The baseline.
        value: Figure of the strategy; None: nothing to divide by.
        base_value: Figure of the baseline.
        twins: Figures of its random twins.
        changed: Number of answers that differ from the baseline's.
        answers: Number of answers.
        over_baseline: Difference from the baseline.
        over_twins: Difference from the mean of the twins' figures.
        controls: Comparison with each plain control.
        rules: Decoding rules of the baseline and of the strategy, where they differ.
        ranking: For yes/no answers with scores: how well they are told apart.
        turns: For yes/no answers: how they turned from the baseline's.
        lacks_seeds: Whether answers are sampled, with too few seeds to claim anything.
    """

    benchmark: str
    group: str
    metric: Metric
    strategy: str
    baseline: str
    value: float | None
    base_value: float | None
    twins: tuple[float, ...]
    changed: int
    answers: int
    over_baseline: Difference | None
    over_twins: Difference | None = None
    controls: tuple[Control, ...] = ()
    rules: tuple[str, str] | None = None
    ranking: Ranking | None = None
    turns: Turns | None = None
    lacks_seeds: bool = False

    @property
    def did_nothing(self) -> bool:
        """Whether too few answers differ from the baseline's."""
        return self.changed < LEAST_CHANGED * self.answers

    @property
    def better_than_baseline(self) -> Tick:
        """Whether the strategy is better than the baseline."""
        return "not run" if self.rules is not None else self._tick([self.over_baseline])

    @property
    def better_than_twins(self) -> Tick:
        """Whether the strategy is better than its random twins."""
        if not self.twins or self.value is None:
            return "not run"
        sign = 1 if self.metric.better == "higher" else -1
        outside = all(sign * self.value > sign * twin for twin in self.twins)
        return self._tick([self.over_twins]) if outside else "no"

    @property
    def better_than_controls(self) -> Tick:
        """Whether the strategy is better than every plain control."""
        return self._tick([control.difference for control in self.controls])

    def _tick(self, differences: Sequence[Difference | None]) -> Tick:
        measured = [difference for difference in differences if difference is not None]
        if self.lacks_seeds or not measured or len(measured) < len(differences):
            return "not run"
        return "yes" if not self.did_nothing and all(is_gain(self.metric, one) for one in measured) else "no"

    @property
    def no_gain(self) -> bool:
        """Whether a gain over the baseline is ruled out: the strategy is worse, or any effect is within the margin."""
        found = self.over_baseline
        return found is not None and (is_loss(self.metric, found) or is_equivalent(self.metric, found))

    @property
    def verdict(self) -> str:
        """What a yes/no method does: "ranks better", "only shifts", "no gain", "not shown", "undecided"; "": no scores.

        "no gain" is a claim, too: the strategy is worse, or any effect is smaller than the metric's margin.
        """
        if self.ranking is None or self.ranking.difference is None or self.ranking.shifted is None:
            return ""
        beats_shifted = is_gain(self.metric, self.ranking.shifted)
        if beats_shifted and not self.did_nothing and is_gain(AUROC, self.ranking.difference):
            return "ranks better"
        if self.better_than_baseline != "yes":
            return "undecided" if self.better_than_baseline == "not run" else "no gain" if self.no_gain else "not shown"
        return "undecided" if beats_shifted else "only shifts"


def is_gain(metric: Metric, difference: Difference) -> bool:
    """Tell whether a difference is on the good side, and significant after correction."""
    good = difference.value > 0 if metric.better == "higher" else difference.value < 0
    return good and (difference.p if difference.holm is None else difference.holm) < LEVEL


def is_loss(metric: Metric, difference: Difference) -> bool:
    """Tell whether a difference is on the bad side, and significant after correction."""
    return is_gain(metric, replace(difference, value=-difference.value))


def is_equivalent(metric: Metric, difference: Difference) -> bool:
    """Tell whether two one-sided tests at 5 % rule out an effect as large as the metric's margin."""
    return difference.bound is not None and difference.bound < metric.margin


@dataclass(frozen=True, slots=True)
class Table:
    """The answers of all strategies in one group.

    Attributes:
        benchmark: Name of the benchmark.
        group: Name of the group.
        metric: The primary metric.
        lineup: What each strategy is compared with.
        rows: Strategy to its answers, in the order of the items.
        counts: Strategy to the counts of its answers.
        resampler: The bootstrap draws of the group.
        differences: Strategy to its difference from the baseline, corrected.
        derived: Strategy to controls that need no answers of their own.
        shifted: Strategy to the counts of answers read off the baseline's scores, by name of the shift.
        rankings: Strategy to how well its yes/no scores tell the answers apart.
        outcomes: Strategy to the outcomes of its yes/no answers.
    """

    benchmark: str
    group: str
    metric: Metric
    lineup: Lineup
    rows: Mapping[str, Sequence[Row]]
    counts: Mapping[str, Sequence[Counts]]
    resampler: Resampler
    differences: Mapping[str, Difference | None]
    derived: Mapping[str, tuple[Control, ...]] = field(default_factory=dict)
    shifted: Mapping[str, Mapping[str, Sequence[Counts]]] = field(default_factory=dict)
    rankings: Mapping[str, Auroc] = field(default_factory=dict)
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)

    def evidence(self) -> tuple[Evidence, ...]:
        """Weigh every strategy but the baseline; none without a direction of the metric."""
        if self.metric.better is None:
            return ()
        found = [self._weigh(arm) for arm in self.lineup.arms[1:]]
        twins = iter(_corrected([one.over_twins for one in found]))
        controls = iter(_corrected([control.difference for one in found for control in one.controls]))
        ranked = [one.ranking for one in found if one.ranking is not None]
        differences = iter(_corrected([ranking.difference for ranking in ranked]))
        shifted = iter(_corrected([ranking.shifted for ranking in ranked]))
        return tuple(
            replace(
                one,
                over_twins=next(twins),
                controls=tuple(replace(control, difference=next(controls)) for control in one.controls),
                ranking=one.ranking and replace(one.ranking, difference=next(differences), shifted=next(shifted)),
            )
            for one in found
        )

    def _weigh(self, arm: str) -> Evidence:
        base, metric, lineup = self.lineup.arms[0], self.metric, self.lineup
        answered = zip(self.rows[arm], self.rows[base], self.counts[base], strict=True)
        texts = {row.item: (row.text, old.text) for row, old, counted in answered if counted.get("n", 1)}
        twins, rule, base_rule = lineup.twins.get(arm, ()), lineup.rule(arm), lineup.rule(base)
        controls = *self._present_controls(arm), *(self._derived_controls(arm) if rule == base_rule else ())
        return Evidence(
            benchmark=self.benchmark,
            group=self.group,
            metric=metric,
            strategy=arm,
            baseline=base,
            value=self._value(arm),
            base_value=self._value(base),
            twins=tuple(value for twin in twins if (value := self._value(twin)) is not None),
            changed=sum(new != old for new, old in texts.values()),
            answers=len(texts),
            over_baseline=self.differences.get(arm),
            over_twins=self._over(arm, twins),
            controls=controls,
            rules=None if rule == base_rule else (base_rule, rule),
            ranking=self._ranking(arm, controls),
            turns=turns_between(self.outcomes[base], self.outcomes[arm]) if arm in self.outcomes else None,
            lacks_seeds=lineup.lacks_seeds(arm) or lineup.lacks_seeds(base),
        )

    def _present_controls(self, arm: str) -> list[Control]:
        """Compare with the plain controls of the run that decode by the same rule; cut captions include them."""
        if arm in self.derived:
            return []
        rule = self.lineup.rule(arm)
        names = [name for name in self.lineup.controls if name != arm and self.lineup.rule(name) == rule]
        return [self._control(name, arm, self.counts[name]) for name in names]

    def _derived_controls(self, arm: str) -> list[Control]:
        """Compare with what is made of the baseline's answers and scores; they follow the baseline's rule."""
        shifted = [self._control(name, arm, counts) for name, counts in self.shifted.get(arm, {}).items()]
        return [*shifted, *self.derived.get(arm, ())]

    def _control(self, name: str, arm: str, counts: Sequence[Counts]) -> Control:
        own, other = self.metric.terms(self.counts[arm]), self.metric.terms(counts)
        return Control(name, self.resampler.difference_of(self.metric.figure, own, other))

    def _ranking(self, arm: str, controls: Sequence[Control]) -> Ranking | None:
        names = arm, self.lineup.arms[0]
        own, base = (self.rankings.get(name) for name in names)
        if own is None or base is None:
            return None
        shifted = next((control.difference for control in controls if control.name == SHIFTED), None)
        balanced = (best_balanced(self.outcomes[name]) for name in names)
        return Ranking(own.estimate(), base.estimate(), own.compared_with(base), shifted, *balanced)

    def _over(self, arm: str, others: Sequence[str]) -> Difference | None:
        if not others:
            return None
        terms = [self.metric.terms(self.counts[other]) for other in others]
        return self.resampler.difference_from_mean(self.metric.figure, self.metric.terms(self.counts[arm]), terms)

    def _value(self, strategy: str) -> float | None:
        return self.metric.value(self.counts[strategy])


def _corrected(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """Correct the p-values of the comparisons that have a value (Holm)."""
    ps = iter(holm([difference.p for difference in differences if difference is not None]))
    return [difference and replace(difference, holm=next(ps)) for difference in differences]
