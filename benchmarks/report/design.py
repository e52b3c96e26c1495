"""What a run could show at all: its declared comparisons, the differences it can detect, and its number of pictures."""

from __future__ import annotations

from mmhall.benchmarks.evaluation import Evaluation
from mmhall.benchmarks.run.runs import Part
from mmhall.results.intervals import FEW


def design_remarks(part: Part, evaluation: Evaluation) -> list[str]:
    """Return notes on a benchmark of a run: family of comparisons, detectable differences, groups of few pictures."""
    name = part.benchmark.name
    sizes = {group: pictures for group, (_, pictures) in evaluation.sizes.items()}
    few = [f"{group} {count}" for group, count in sizes.items() if count < FEW]
    found = [*_family(part, evaluation), *(_detectable(part, evaluation, group) for group in sizes)]
    if few:
        found.append(
            f"fewer than {FEW} pictures ({', '.join(few)}): intervals are approximate, and little can be shown"
        )
    return [f"{name}: {text}" for text in found if text]


def detectable_remarks(part: Part, evaluation: Evaluation, group: str) -> list[str]:
    """Say which differences in the primary metric a group can show; nothing without a comparison."""
    text = _detectable(part, evaluation, group)
    return [f"{part.benchmark.name} {text}"] if text else []


def _family(part: Part, evaluation: Evaluation) -> list[str]:
    """Say which comparisons were declared; none without a second strategy."""
    compared = list(dict.fromkeys(cell.strategy for cell in evaluation.cells if cell.difference is not None))
    if not compared:
        return []
    count = "1 comparison" if len(compared) == 1 else f"{len(compared)} comparisons, corrected together (Holm)"
    return [
        f"the primary metric is {part.benchmark.primary.name}; the declared family is its {count} in each table. Other "
        "metrics are corrected alike, describe, and decide nothing."
    ]


def _detectable(part: Part, evaluation: Evaluation, group: str) -> str:
    """Say which differences in the primary metric a group can show; "" without a comparison."""
    metric = part.benchmark.primary
    compared = {
        cell.strategy: cell.difference.detectable
        for cell in evaluation.cells
        if cell.group == group and cell.metric is metric and cell.difference is not None
    }
    if not compared:
        return ""
    known = {strategy: value for strategy, value in compared.items() if value is not None}
    if not known:
        return f"{group}: no difference in {metric.name} can be shown with so few pictures"
    ends = [min(known, key=known.__getitem__), max(known, key=known.__getitem__)]
    texts = [f"{known[one] * metric.scale:.1f} ({one})" for one in dict.fromkeys(ends)]
    unit = " points of" if metric.percent else " of"
    return (
        f"{group}: a difference of {' to '.join(texts)}{unit} {metric.name} would be found with 80 % power (paired, at "
        "5 %, before correction)"
    )
