"""Several runs of one design as one: seeds of the draws, of the pictures or of the training, in one table.

Runs       of the same benchmarks and strategies. They may differ in the seed of sampled answers (`mmhall bench
           --seeds`), in their pictures (`--seed`), and in the model (one trained with another seed).
Figures    The mean over runs, their standard deviation (n - 1) and range; beside it the interval over pictures, of all
           answers together. The first says how much a figure depends on the seed, the second how much on the pictures.
Pictures   that several runs share, by the digests of their files, are one cluster: three seeds on 200 pictures are 200
           pictures, not 600.
Tests      are those of a single run, on all answers.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mmhall.benchmarks.base import Benchmark, Counts, Item
from mmhall.benchmarks.evaluation import Cell, Evaluation
from mmhall.benchmarks.evidence import lineup_of
from mmhall.benchmarks.report.table import Evaluated
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.errors import RunError
from mmhall.results.store import Row, differences

_MARK = ":"  # between the number of a run and an id


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Several runs together.

    Attributes:
        evaluated: Evaluation of all answers; each cell has the value of every run.
        fitted: Arm to the strategy with all options in force, of the first run.
        remarks: What the runs differ in, and what was left out.
    """

    evaluated: Evaluated
    fitted: Mapping[str, str]
    remarks: tuple[str, ...]


def aggregate(runs: Sequence[Run]) -> Aggregate:
    """Evaluate several runs together.

    Raises:
        RunError: There is one run only, or they differ in baseline, strategies or benchmarks.
    """
    if len(runs) < 2:
        raise RunError(
            f"{_names(runs)}: is one run; give several to aggregate, such as those of `mmhall bench --seeds`"
        )
    strategies = _shared_strategies(runs)
    remarks = [f"Aggregated: {_names(runs)}. They differ in: {', '.join(_varied(runs)) or 'nothing'}."]
    left = sorted({name for run in runs for name in run.strategies} - set(strategies))
    remarks += [f"Left out, as not every run has them: {', '.join(left)}."] if left else []
    evaluated = []
    for part in runs[0].parts:
        own = [_same_part(run, part, runs[0]) for run in runs]
        evaluated.append(_evaluate(runs, own, strategies))
    rest = {p.benchmark.name for run in runs for p in run.parts} - {p.benchmark.name for p in runs[0].parts}
    remarks += [f"Left out, as the first run has none: {', '.join(sorted(rest))}."] if rest else []
    arms = lineup_of(strategies).arms
    return Aggregate(evaluated, {arm: runs[0].fitted[arm] for arm in arms}, tuple(remarks))


def _names(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.store.path.parent) for run in runs)


def _shared_strategies(runs: Sequence[Run]) -> list[str]:
    """Return the strategies of all runs.

    Raises:
        RunError: The baselines differ.
    """
    first = runs[0].strategies
    other = next((run for run in runs if run.strategies[0] != first[0]), None)
    if other is not None:
        raise RunError(
            f"{other.store.path.parent}: its baseline is {other.strategies[0]}, that of {runs[0].store.path.parent} is "
            f"{first[0]}; aggregate runs with one baseline"
        )
    return [name for name in first if all(name in run.strategies for run in runs)]


def _same_part(run: Run, part: Part, first: Run) -> Part:
    """Return a run's part of the same benchmark.

    Raises:
        RunError: The run has none, or with other options than the seed of the draws.
    """
    name = part.benchmark.name
    own = next((other for other in run.parts if other.benchmark.name == name), None)
    found = "nothing" if own is None else str(own.benchmark)
    if own is None or own.benchmark.with_seed(0) != part.benchmark.with_seed(0):
        raise RunError(
            f"{run.store.path.parent}: has {found} where {first.store.path.parent} has {part.benchmark}; aggregate "
            "runs of the same benchmarks"
        )
    return own


def _varied(runs: Sequence[Run]) -> list[str]:
    """Name what differs between the set-ups of runs."""
    setups = [run.setup for run in runs]
    pairs = [pair for setup in setups[1:] for pair in ((setups[0], setup), (setup, setups[0]))]
    found = {key: values for pair in pairs for key, *values in differences(*pair)}
    keys = [key for key, values in found.items() if not (key.endswith(".pictures") and "null" in values)]
    return list(dict.fromkeys(_kind(key) for key in sorted(keys) if not key.endswith(".spec")))


def _kind(key: str) -> str:
    """Name the kind of a difference of set-ups."""
    top, last = key.split(".")[0], key.rpartition(".")[2]
    if top in ("model", "weights", "sample", "revision", "chat_template"):
        return "model"
    if top in ("fitted", "options", "artifacts", "num_beams"):
        return "options of strategies"
    if top == "benchmarks":
        return "seed of the draws" if key.endswith(".settings.seed") else "pictures" if last != "rule" else "rule"
    return top


def _evaluate(runs: Sequence[Run], parts: Sequence[Part], strategies: Sequence[str]) -> tuple[Part, Evaluation]:
    """Evaluate one benchmark of all runs together, and give each cell the values of the runs."""
    items: list[Item] = []
    rows: list[Row] = []
    batches = 0
    for number, (run, part) in enumerate(zip(runs, parts, strict=True)):
        clusters = _clusters(part)
        items += [_numbered(item, number, clusters[item.cluster]) for item in part.items]
        own = [row for row in run.rows_without_paths(part) if row.strategy in strategies]
        rows += [replace(row, item=f"{number}{_MARK}{row.item}", batch=batches + row.batch) for row in own]
        batches += 1 + max((row.batch for row in own), default=0)
    benchmark = _counting_by_run(parts[0].benchmark)
    seeds = {run.store.setup()["benchmarks"][benchmark.name]["settings"].get("seed") for run in runs}
    lineup = replace(lineup_of(strategies, runs[0].rules(parts[0])), seeds=len(seeds))
    evaluation = benchmark.evaluate(items, rows, strategies, lineup)
    alone = [_values(run, part, strategies) for run, part in zip(runs, parts, strict=True)]
    cells = tuple(replace(cell, runs=_runs(cell, alone)) for cell in evaluation.cells)
    return replace(parts[0], items=items), replace(evaluation, cells=cells, official={})


def _numbered(item: Item, number: int, cluster: str) -> Item:
    picture = None if item.picture is None else f"{number}{_MARK}{item.picture}"
    return replace(item, id=f"{number}{_MARK}{item.id}", picture=picture, cluster=cluster)


def _clusters(part: Part) -> dict[str, str]:
    """Return a name of each cluster that runs with the same picture files share."""
    pictures: dict[str, set[str]] = {}
    for item in part.items:
        pictures.setdefault(item.cluster, set()).add(part.digests.get(item.picture or "", ""))
    return {
        name: f"{name} {hashlib.sha256(' '.join(sorted(own)).encode()).hexdigest()}" for name, own in pictures.items()
    }


def _counting_by_run(benchmark: Benchmark) -> Benchmark:
    """Return the benchmark with counts that do not mix the answers of two runs, as counts of pairs would."""
    own = copy.copy(benchmark)
    object.__setattr__(own, "counts", partial(_count_by_run, benchmark))
    return own


def _count_by_run(benchmark: Benchmark, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
    counted: dict[int, Counts] = {}
    numbers = [item.id.partition(_MARK)[0] for item in items]
    for number in dict.fromkeys(numbers):
        chosen = [index for index, own in enumerate(numbers) if own == number]
        found = benchmark.counts([items[index] for index in chosen], [rows[index] for index in chosen])
        counted |= dict(zip(chosen, found, strict=True))
    return [counted[index] for index in range(len(items))]


Values = Mapping[tuple[str, str, str], float]
"""Group, metric and strategy to the figure of one run."""


def _values(run: Run, part: Part, strategies: Sequence[str]) -> Values:
    found = part.benchmark.evaluate(part.items, run.rows(part), strategies, lineup_of(strategies, run.rules(part)))
    return {
        (cell.group, cell.metric.name, cell.strategy): cell.estimate.value
        for cell in found.cells
        if cell.estimate.value is not None
    }


def _runs(cell: Cell, alone: Sequence[Values]) -> tuple[float, ...]:
    key = cell.group, cell.metric.name, cell.strategy
    return tuple(values[key] for values in alone if key in values)
