"""Published figures beside those of a run, with the conditions in which the two differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from mmhall.benchmarks.base import Benchmark
from mmhall.benchmarks.data.pope_maker import SETTINGS
from mmhall.benchmarks.evaluation import Cell, Evaluation
from mmhall.benchmarks.evidence import GREEDY
from mmhall.benchmarks.reproduce.protocol import CONDITIONS, MEAN, Published
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.strategies import strategy

UNKNOWN, COCO = "not recorded", "coco"


@dataclass(frozen=True, slots=True)
class Pair:
    """One published figure beside ours, in percent.

    Attributes:
        strategy: The strategy, as written for the run.
        group: Name of the group, or `MEAN`.
        metric: Name of the metric.
        published: The published figure.
        ours: Ours; None: nothing to divide by, or not run.
        low: Lower end of our 95 % interval; None: there is none.
        high: Upper end.
        gain: Ours minus our baseline's; None for the baseline, or without a figure of both.
        published_gain: The published figure minus that of the source's baseline; None as above.
    """

    strategy: str
    group: str
    metric: str
    published: float
    ours: float | None
    low: float | None = None
    high: float | None = None
    gain: float | None = None
    published_gain: float | None = None

    @property
    def verdict(self) -> str:
        """Where the published figure lies: "inside" our interval, "above" or "below" it; "" without an interval."""
        if self.low is None or self.high is None:
            return ""
        return "below" if self.published < self.low else "above" if self.published > self.high else "inside"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The figures of one source beside ours.

    Attributes:
        published: The source.
        pairs: The figures.
        differences: Conditions that differ, or are not recorded, in words.
    """

    published: Published
    pairs: tuple[Pair, ...]
    differences: tuple[str, ...]


def compare(run: Run, part: Part, evaluation: Evaluation, published: Published) -> Comparison:
    """Compare one source with a benchmark of a run.

    Args:
        run: The run.
        part: The benchmark of the source.
        evaluation: Its evaluation.
        published: The source.
    """
    base, pairs = run.strategies[0], list[Pair]()
    for spec, figures in published.figures.items():
        for (group, metric), value in figures.items():
            arm, theirs = str(strategy(spec)), published.figures.get(base, {}).get((group, metric))
            pair = _pair(evaluation.cells, arm, group, metric, value)
            ours = _pair(evaluation.cells, base, group, metric, value).ours
            if arm != base and theirs is not None and None not in (pair.ours, ours):
                pair = replace(pair, gain=float(pair.ours or 0) - float(ours or 0), published_gain=value - theirs)
            pairs.append(pair)
    arms = [pair.strategy for pair in pairs if pair.strategy in run.strategies]
    return Comparison(published, tuple(pairs), tuple(_differences(run, part, published.conditions, arms)))


def conditions(run: Run, part: Part) -> dict[str, str]:
    """Return the conditions of a run's figures, by the names of `CONDITIONS`; "decoding" is that of the baseline."""
    benchmark = part.benchmark
    found = {
        "decoding": _decoding(run.rules(part)[run.strategies[0]]),
        "token limit": str(benchmark.max_new_tokens),
        "prompt": _prompt(part),
        "answer rule": benchmark.rule,
        "pictures": _pictures(run, part),
    }
    if hasattr(benchmark, "drop_unfinished"):
        found["captions"] = _captions(benchmark)
    rules = {_length_rule(arm) for arm in run.arms} - {None}
    if rules:
        found["beam score"] = ", ".join(sorted(map(str, rules)))
    return found


def _pair(cells: Sequence[Cell], arm: str, group: str, metric: str, published: float) -> Pair:
    groups = SETTINGS if group == MEAN else (group,)
    names = {
        *groups,
        *(f"{COCO} {each}" for each in groups),
    }  # with the name of the set where the data has several sets
    found = [
        cell.estimate
        for cell in cells
        if cell.strategy == arm
        and cell.group in names
        and cell.metric.name == metric
        and cell.estimate.value is not None
    ]
    values = [100 * float(estimate.value or 0) for estimate in found]
    if len(values) < len(groups):
        return Pair(arm, group, metric, published, None)
    if group == MEAN:
        return Pair(arm, group, metric, published, mean(values))
    low, high = found[0].low, found[0].high
    ends = (None, None) if low is None or high is None else (100 * low, 100 * high)
    return Pair(arm, group, metric, published, values[0], *ends)


def _differences(run: Run, part: Part, theirs: Mapping[str, str], arms: Sequence[str]) -> Iterator[str]:
    ours = conditions(run, part)
    if not any(_length_rule(arm) for arm in arms):
        ours.pop("beam score", None)
    for name in CONDITIONS:
        if name in ours and ours[name] != theirs.get(name):
            yield f"{name}: {theirs.get(name, UNKNOWN)} there, {ours[name]} here"


def _decoding(rule: str) -> str:
    """Return a decoding rule in the words of `Published.conditions`."""
    if rule == GREEDY or not rule.startswith("sampling"):
        return rule
    return "sampling at temperature 1" if "temperature 1.0" in rule else rule


def _prompt(part: Part) -> str:
    """Return the profile of a prompt, or, if all items have one text, that text."""
    profile = getattr(part.benchmark, "prompt", None)
    if profile is not None:
        return f"profile {profile}"
    texts = {item.prompt for item in part.items}
    return next(iter(texts)) if len(texts) == 1 else "one for each item"


def _pictures(run: Run, part: Part) -> str:
    limit = run.store.setup()["benchmarks"][part.benchmark.name]["limit"]
    return f"{'' if limit is None else 'the first '}{len({item.picture for item in part.items})}"


def _captions(benchmark: Benchmark) -> str:
    words, whole = getattr(benchmark, "words", 0), not getattr(benchmark, "drop_unfinished", False)
    cut = "whole" if not words else f"first {words} words"
    return cut if whole else "without a last unfinished sentence"


def _length_rule(arm: str) -> str | None:
    rule = strategy(arm).options().get("length_rule")
    return None if rule is None else str(rule)
