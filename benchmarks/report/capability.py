"""The table of capability beside the gain: what a method wins where models hallucinate, and loses elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from mmhall.benchmarks.evaluation import Cell, Evaluation
from mmhall.benchmarks.report.sections import Line, Section, cell_difference, cell_value
from mmhall.benchmarks.report.table import Evaluated
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.errors import DataError
from mmhall.results.capability import NOT_MEASURED, Capability, change, merge
from mmhall.strategies import strategy

REMARK = f"{NOT_MEASURED}; `mmhall report RUN --capability FILE` reads a results file of lmms-eval (MMStar, MMBench)."


def by_arm(run: Run, files: list[tuple[str, Capability]]) -> dict[str, Capability]:
    """Return the capability of each strategy of a run.

    Args:
        run: The run.
        files: The strategy of each file as the user has written it, "" to take it from the file; and its scores.

    Raises:
        DataError: A file is of no strategy of the run, of another than is written, or of another model; or two files
            score the same benchmark.
    """
    found: dict[str, list[Capability]] = {}
    for written, capability in files:
        spec = written or capability.strategy
        if not spec:
            raise DataError(f"{capability.source}: does not say its strategy; give STRATEGY={capability.source}")
        if written and capability.strategy not in ("", str(strategy(written))):
            raise DataError(f"{capability.source}: is of {capability.strategy} by its own arguments, not of {written}")
        names = {arm: {arm, run.fitted[arm]} for arm in run.arms}
        arm = next((arm for arm, forms in names.items() if forms & {spec, str(strategy(spec))}), None)
        if arm is None:
            raise DataError(f"{capability.source}: is of {spec}, the run has {', '.join(run.arms)}")
        model = str(run.store.setup().get("model", ""))
        if capability.model and PurePath(capability.model).name != PurePath(model).name:
            raise DataError(f"{capability.source}: is of the model {capability.model}, the run of {model}")
        found.setdefault(arm, []).append(capability)
    return {arm: merge(capabilities) for arm, capabilities in found.items()}


def capability_section(run: Run, evaluated: Evaluated, capabilities: Mapping[str, Capability]) -> Section:
    """Return a line for each strategy: its primary figure in each benchmark, and its capability with the change."""
    base, gains = run.arms[0], [_primary(part, evaluation) for part, evaluation in evaluated if evaluation.cells]
    names = list(dict.fromkeys(name for each in capabilities.values() for name in each.scores))
    lines = []
    for arm in run.arms:
        cells = [next(cell for cell in column if cell.strategy == arm) for column in gains]
        own = capabilities.get(arm)
        changes = [None if arm == base else change(name, own, capabilities.get(base)) for name in names]
        scores = [f"{own.scores[name]:.1f}" if own and name in own.scores else NOT_MEASURED for name in names]
        texts = [*map(cell_difference, cells), *("" if c is None else f"{c:+.1f}" for c in changes)]
        lines.append(Line(arm, (*map(cell_value, cells), *scores), tuple(texts)))
    columns = [f"{cell.benchmark} {cell.group} {cell.metric.name}" for cell in (column[0] for column in gains)]
    title = f"capability in percent beside the gain; second lines: minus {base}, capability without interval"
    return Section(title, "", (*columns, *names), tuple(lines), ())


def _primary(part: Part, evaluation: Evaluation) -> list[Cell]:
    """Return the cells of the primary metric: of the mean over groups, else of the group that is plotted."""
    benchmark = part.benchmark
    means = [cell for cell in evaluation.means if cell.metric is benchmark.primary]
    group = benchmark.plotted or evaluation.cells[-1].group
    return means or [c for c in evaluation.cells if c.group == group and c.metric is benchmark.primary]


def as_record(run: Run, capabilities: Mapping[str, Capability]) -> dict[str, object]:
    """Return the scores of each strategy as JSON values, or the words that they were not measured."""
    return {arm: dict(capabilities[arm].scores) if arm in capabilities else NOT_MEASURED for arm in run.arms}
