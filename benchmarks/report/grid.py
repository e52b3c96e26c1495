"""Tables of a figure in several groups beside each other, with their mean: POPE's cells, as papers print them."""

from __future__ import annotations

from mmhall.benchmarks.evaluation import MEAN, Evaluation
from mmhall.benchmarks.report.sections import Line, Section, cell_difference, cell_value
from mmhall.benchmarks.run.runs import Part


def grid_sections(part: Part, evaluation: Evaluation) -> list[Section]:
    """Return a table for each metric of the grid, a column for each group; none where there is no mean."""
    tables = []
    for name in dict.fromkeys(cell.metric.name for cell in evaluation.means):
        cells = [cell for cell in (*evaluation.cells, *evaluation.means) if cell.metric.name == name]
        groups = [group for group in (*part.benchmark.grid, MEAN) if any(cell.group == group for cell in cells)]
        by_place = {(cell.strategy, cell.group): cell for cell in cells}
        lines = []
        for strategy in dict.fromkeys(cell.strategy for cell in evaluation.means):
            row = [by_place[strategy, group] for group in groups]
            lines.append(Line(strategy, tuple(map(cell_value, row)), tuple(map(cell_difference, row))))
        title = f"{part.benchmark.name}, {name} in percent by setting; the mean of {len(groups) - 1} counts each once"
        tables.append(Section(title, "", tuple(groups), tuple(lines), ()))
    return tables
