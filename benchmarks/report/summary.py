"""The first screen of a report: what a run says of each strategy in a sentence, one table, and what was not run.

Columns    What each benchmark shows first (`Benchmark.leading`), the ticks of its main group, and rows per token. In a
           group that counts two strategies together (equal mentions), a cell is the difference from the baseline (Δ).
Marks      better, worse: than the baseline, after Holm's correction within the column.
Controls   A gain over the baseline may be a control's, too: its sentence names every control that the strategy is not
           shown to be better than, and what it was not compared with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from mmhall.benchmarks.base import Benchmark, Metric
from mmhall.benchmarks.evaluation import MEAN, Cell, Evaluation
from mmhall.benchmarks.evidence import Evidence
from mmhall.benchmarks.evidence.frontier import NAME as FRONTIER
from mmhall.benchmarks.evidence.ticks import Control, Tick, is_equivalent, is_gain, is_loss
from mmhall.benchmarks.report.design import detectable_remarks
from mmhall.benchmarks.report.evidence import effect_text
from mmhall.benchmarks.report.sections import cell_value, column_name, difference_text, number_text, p_value
from mmhall.benchmarks.report.table import Evaluated, events
from mmhall.benchmarks.run.runs import Run
from mmhall.results.statistics import Difference

Mark = Literal["", "better", "worse"]
TICKS: Mapping[Tick, str] = {"yes": "✓", "no": "✗", "not run": "·"}
SIGNS: Mapping[Mark, str] = {"": "", "better": " ▲", "worse": " ▼"}
LEGEND = (
    "Ticks: better than the baseline, than its random twins, than what needs no method; ✓ yes, ✗ no, · not run. "
    "▲ better, ▼ worse than the baseline, corrected for the number of strategies (Holm, p < 0.05). "
    "Differences have 95 % intervals and paired p-values, corrected ones in parentheses."
)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a column.

    Attributes:
        benchmark: Name of the benchmark; "" for the cost.
        group: Name of the group; "" for the cost.
        name: Name of the figure, with its unit.
        metric: Name of the metric; "" for ticks and the cost.
    """

    benchmark: str
    group: str
    name: str
    metric: str = ""

    @property
    def place(self) -> str:
        """Benchmark and group; "" for the cost."""
        return f"{self.benchmark} {self.group}".strip()


@dataclass(frozen=True, slots=True)
class Entry:
    """A cell of the table.

    Attributes:
        short: The figure alone; "" if there is none.
        long: The figure with its interval, and its difference from the baseline.
        mark: Whether it is better or worse than the baseline's.
        p: p-value of the difference, corrected if others were compared; None: no difference.
        beside: What stands beside the figure: its difference from the baseline with that p-value, or its interval.
    """

    short: str
    long: str
    mark: Mark = ""
    p: float | None = None
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a group shows of a strategy.

    Attributes:
        strategy: The strategy.
        place: Benchmark and group.
        text: What it shows, without a full stop.
    """

    strategy: str
    place: str
    text: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The first screen of a run.

    Attributes:
        title: Strategies and model.
        lead: What the run says in one sentence for each benchmark.
        statements: What the run says of each strategy but the baseline, by benchmark.
        heads: Heads of the columns.
        lines: Strategy to its entries, one for each head; the baseline first.
        leading: The cells behind the entries of primary metrics, by head; for plots.
        constant: What was the same for all strategies.
        notes: What was not run or failed, and which differences the run can show.
    """

    title: str
    lead: tuple[str, ...]
    statements: tuple[Statement, ...]
    heads: tuple[Head, ...]
    lines: Mapping[str, tuple[Entry, ...]]
    leading: Mapping[Head, tuple[Cell, ...]]
    constant: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def places(self) -> list[tuple[str, int]]:
        """Benchmark and group above the columns' names, each with its number of columns."""
        return [(place, len(list(same))) for place, same in groupby(head.place for head in self.heads)]


def summarise(run: Run, evaluated: Evaluated) -> Summary:
    """Return the first screen of a run.

    Args:
        run: The run.
        evaluated: Its evaluation.
    """
    title = f"{', '.join(run.arms)} on {run.current_setup['model']}"
    notes = *_detectable(evaluated), *events(evaluated, run.fitted, run.left_out)
    return make_summary(title, run.arms, evaluated, _constant(run), notes)


def make_summary(
    title: str, arms: Sequence[str], evaluated: Evaluated, constant: Sequence[str], notes: Sequence[str]
) -> Summary:
    """Return the first screen of evaluated answers.

    Args:
        title: What was compared.
        arms: Strategies with a row of their own, the baseline first.
        evaluated: The evaluation.
        constant: What was the same for all strategies.
        notes: What was not run or failed.
    """
    columns: dict[Head, dict[str, Entry]] = {}
    leading: dict[Head, tuple[Cell, ...]] = {}
    for part, evaluation in evaluated:
        for group, metric in leading_figures(part.benchmark, evaluation.sizes):
            among = evaluation.means if group == MEAN else evaluation.cells
            cells = tuple(cell for cell in among if cell.group == group and cell.metric == metric)
            differs = group in part.benchmark.pairwise
            head = Head(part.benchmark.name, group, f"{'Δ ' if differs else ''}{column_name(metric)}", metric.name)
            columns[head] = {cell.strategy: _entry(cell, as_difference=differs) for cell in cells}
            if metric == part.benchmark.primary:
                leading[head] = cells
        weighed = _weighed(part.benchmark, evaluation)
        if weighed:
            head = Head(part.benchmark.name, weighed[0].group, "ticks")
            columns[head] = {row.strategy: Entry(ticks_text(row), ticks_text(row)) for row in weighed}
    columns |= _costs(evaluated)
    empty = Entry("", "")
    return Summary(
        title,
        tuple(_lead(part.benchmark, evaluation) for part, evaluation in evaluated if evaluation.evidence),
        tuple(_statements(evaluated, arms)),
        tuple(columns),
        {arm: tuple(own.get(arm, empty) for own in columns.values()) for arm in arms},
        leading,
        tuple(constant),
        tuple(notes),
    )


def by_strategy(summary: Summary) -> dict[str, list[Statement]]:
    """Return what the run says of each strategy."""
    told: dict[str, list[Statement]] = {}
    for one in summary.statements:
        told.setdefault(one.strategy, []).append(one)
    return told


def main_group(benchmark: Benchmark, groups: Collection[str]) -> str:
    """Return the group that stands for a benchmark: a leading one, else the plotted, the last of a grid, or the first.

    Args:
        benchmark: The benchmark.
        groups: Its groups with answers; those that count strategies in pairs are left out.
    """
    named = *(group for group, _ in benchmark.leading), benchmark.plotted, *reversed(benchmark.grid), *benchmark.groups
    known = set(groups) - set(benchmark.pairwise)
    return next((group for group in named if group in known), benchmark.groups[-1])


def leading_figures(benchmark: Benchmark, groups: Collection[str]) -> list[tuple[str, Metric]]:
    """Return the groups and metrics that a report shows first.

    Args:
        benchmark: The benchmark.
        groups: Its groups with answers.
    """
    if not groups:
        return []
    by_name = {metric.name: metric for metric in benchmark.metrics if not metric.table}
    group = main_group(benchmark, groups)
    has_mean = sum(member in groups for member in benchmark.grid) > 1
    if has_mean and group not in {leading for leading, _ in benchmark.leading}:
        return [(MEAN, by_name[name]) for name in benchmark.grid_metrics]
    usual = (group, benchmark.primary.name), *([(group, benchmark.trades)] if benchmark.trades else [])
    declared = [place for place in benchmark.leading if place[0] in groups and place[1] in by_name]
    return [(group, by_name[name]) for group, name in declared or usual]


def evaluate_first(run: Run) -> Evaluated:
    """Evaluate what the first screen of a run shows, without the evidence: a small part of `Run.evaluate`."""
    return run.evaluate(
        lambda part: [
            (group, metric.name)
            for group, metric in leading_figures(
                part.benchmark, {group for item in part.items for group in item.groups} or part.benchmark.groups
            )
        ]
    )


def ticks_text(row: Evidence) -> str:
    """Return the three ticks of a strategy as three signs."""
    found = row.better_than_baseline, row.better_than_twins, row.better_than_controls
    return "".join(TICKS[tick] for tick in found)


def mark_of(cell: Cell) -> Mark:
    """Tell whether a cell is better or worse than the baseline's, after correction."""
    if cell.difference is None or cell.metric.better is None:
        return ""
    if is_gain(cell.metric, cell.difference):
        return "better"
    return "worse" if is_loss(cell.metric, cell.difference) else ""


def statement(row: Evidence) -> str:
    """Say in one sentence what a group shows of a strategy on the primary metric.

    The sentence names every control that reaches the gain; what was not compared is named, too.
    """
    metric, name = row.metric, row.metric.name
    if row.rules is not None:
        return f"{row.rules[1]} is another decoding rule than {row.rules[0]}, not compared"
    if row.did_nothing:
        return f"did nothing: {row.changed} of {row.answers} answers differ"
    figures = f"{name} {number_text(row.value, metric)}, {row.baseline} {number_text(row.base_value, metric)}"
    if row.over_baseline is None:
        return f"no value of {name}"
    if row.lacks_seeds:
        return f"{figures}: sampled, with too few seeds to say more"
    if row.better_than_baseline != "yes":
        return f"{figures}: {_absence(row, row.over_baseline)}"
    reached = explanations(row)
    missing = [text for tick, text in _comparisons(row) if tick == "not run"]
    missing += [control.name for control in row.controls if control.difference is None]
    parts = [f"{figures}, {difference_text(row.over_baseline, metric)}"]
    parts += [f"not shown to be better than {', '.join(reached)}"] if reached else []
    beaten = [text for tick, text in _comparisons(row) if tick == "yes"]
    parts += [f"better than {' and '.join(beaten)}"] if beaten else []
    parts += [f"not compared with {' and '.join(missing)}"] if missing else []
    return "; ".join(parts)


def explanations(row: Evidence) -> list[str]:
    """Return the controls that a strategy with a gain is not shown to be better than."""
    twins = ["its random twins"] if row.better_than_twins == "no" else []
    reached = [
        _control_name(control)
        for control in row.controls
        if control.difference is not None and not is_gain(row.metric, control.difference)
    ]
    return twins + reached


def _control_name(control: Control) -> str:
    if control.name != FRONTIER:
        return control.name
    return (
        "the plain captions that find most (none has its recall)" if control.remark else "plain captions of its recall"
    )


def _absence(row: Evidence, found: Difference) -> str:
    """Say what the absence of a gain means: worse, no effect, or that none is shown."""
    if is_loss(row.metric, found) or is_equivalent(row.metric, found):
        return effect_text(row)
    return f"not shown to be better, {difference_text(found, row.metric)}"


def _comparisons(row: Evidence) -> list[tuple[Tick, str]]:
    plain: Tick = row.better_than_controls
    if plain == "not run" and any(control.difference is not None for control in row.controls):
        plain = "no"  # those without a value are named
    return [(row.better_than_twins, "its random twins"), (plain, "what needs no method")]


def _weighed(benchmark: Benchmark, evaluation: Evaluation) -> list[Evidence]:
    if not evaluation.cells:
        return []
    group = main_group(benchmark, evaluation.sizes)
    return [row for row in evaluation.evidence if row.group == group]


def _lead(benchmark: Benchmark, evaluation: Evaluation) -> str:
    """Say which strategies are better than the baseline, and which of them are better than their controls."""
    rows = _weighed(benchmark, evaluation)
    if not rows:
        return f"{benchmark.name}: nothing is compared."
    place, base = f"{benchmark.name} {rows[0].group}", rows[0].baseline
    if all(row.better_than_baseline == "not run" for row in rows):
        return f"{place}: nothing can be compared with {base}."
    better = [row for row in rows if row.better_than_baseline == "yes"]
    if not better:
        return f"{place}: no strategy is shown to be better than {base}."
    controls = [row.better_than_controls for row in better]
    twins = [row.better_than_twins for row in better]
    return (
        f"{place}: better than {base}: {_names(better, ['yes'] * len(better))}; of these, better than what needs no "
        f"method: {_names(better, controls)}; better than their random twins: {_names(better, twins)}."
    )


def _names(rows: Sequence[Evidence], found: Sequence[Tick]) -> str:
    """Name the strategies with a tick, "none", or "not compared"; name those that were not compared beside others."""
    named, missing = (
        ", ".join(row.strategy for row, tick in zip(rows, found, strict=True) if tick == wanted)
        for wanted in ("yes", "not run")
    )
    if all(tick == "not run" for tick in found):
        return "not compared"
    return f"{named or 'none'}{f' (not compared: {missing})' if missing else ''}"


def _statements(evaluated: Evaluated, arms: Sequence[str]) -> list[Statement]:
    found = [
        Statement(row.strategy, f"{row.benchmark} {row.group}", statement(row))
        for part, evaluation in evaluated
        for row in _weighed(part.benchmark, evaluation)
    ]
    return [one for arm in arms for one in found if one.strategy == arm]


def _entry(cell: Cell, *, as_difference: bool) -> Entry:
    difference, metric = cell.difference, cell.metric
    compared = "" if difference is None else difference_text(difference, metric)
    p = None if difference is None else difference.p if difference.holm is None else difference.holm
    change = "" if difference is None else f"{difference.value * metric.scale:+.1f}"
    level = "" if p is None else p_value(p)
    if as_difference:
        return Entry(change, compared, mark_of(cell), p, level)
    text, value = cell_value(cell), number_text(cell.estimate.value, metric)
    long = f"{text}; {compared}" if compared else text
    return Entry(value, long, mark_of(cell), p, f"{change}, {level}" if change else text.removeprefix(value).strip())


def _costs(evaluated: Evaluated) -> dict[Head, dict[str, Entry]]:
    """Return a column of rows per token, of the benchmark with the longest answers; none where they are not counted."""
    known = [e.costs for _, e in evaluated if e.costs and all(cost.rows is not None for cost in e.costs)]
    if not known:
        return {}
    longest = max(known, key=lambda costs: costs[0].tokens)
    texts = {cost.strategy: f"{cost.rows:.2f}" for cost in longest}
    return {Head("", "", "rows per token"): {strategy: Entry(text, text) for strategy, text in texts.items()}}


def _constant(run: Run) -> list[str]:
    """Say what was the same for all strategies."""
    setup = run.current_setup
    asked = [
        f"{part.benchmark}: {told['count']} items, rule {part.benchmark.rule}, at most {part.benchmark.max_new_tokens} "
        f"new tokens, seed {told['seed']}"
        for part in run.parts
        for told in [setup["benchmarks"][part.benchmark.name]]
    ]
    packages = ", ".join(f"{package} {number}" for package, number in setup["versions"].items())
    return [*asked, f"weights {setup['weights']}; batches of {setup['batch_size']}; {packages}"]


def _detectable(evaluated: Evaluated) -> list[str]:
    return [
        text
        for part, evaluation in evaluated
        if evaluation.cells
        for text in detectable_remarks(part, evaluation, main_group(part.benchmark, evaluation.sizes))
    ]
