"""Comparison of two runs: differences of their set-ups, and of the results on their common items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.evaluation import Evaluation
from mmhall.benchmarks.evidence import Lineup, lineup_of
from mmhall.benchmarks.report.evidence import LEGEND
from mmhall.benchmarks.report.sections import Section
from mmhall.benchmarks.report.table import Evaluated, sections
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.options import parse, split
from mmhall.results.store import differences

_SIDES = ("first", "second")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of two runs.

    Attributes:
        setup: Differences of the set-ups: key, value in the first run, value in the second.
        remarks: Notes on what can be compared and what cannot.
        sections: Tables for each common benchmark and pair of strategies, with a line for each run.
        evaluated: The same as evaluations.
    """

    setup: tuple[tuple[str, str, str], ...]
    remarks: tuple[str, ...]
    sections: tuple[Section, ...]
    evaluated: Evaluated


def compare(first: Run, second: Run) -> Comparison:
    """Compare two runs: strategies of equal text or name, or the only strategies of both.

    The second run's twins and plain controls stand beside its strategies; twins are not compared themselves.
    """
    pairs = _pairs(first.arms, second.arms)
    remarks = [] if pairs else ["no strategy is in both runs: nothing to compare but the set-up"]
    evaluated: list[tuple[Part, Evaluation]] = []
    for part in first.parts:
        other = next((p for p in second.parts if p.benchmark.name == part.benchmark.name), None)
        if other is None:
            remarks.append(f"{part.benchmark.name}: only in the first run")
            continue
        common = _common_items(part, other)
        count = f"{part.benchmark.name}: {len(common)} items are the same"
        remarks.append(f"{count} (of {len(part.items)} and {len(other.items)})")
        remarks += _picture_remarks(part, other)
        if str(part.benchmark) != str(other.benchmark):
            remarks.append(f"{part.benchmark.name}: both are read as {part.benchmark}, the first run's way")
        for first_strategy, second_strategy in pairs if common else ():
            evaluated.append(
                _evaluate_pair((first, part, first_strategy), (second, other, second_strategy), common, remarks)
            )
    remarks += [
        f"{p.benchmark.name}: only in the second run" for p in second.parts if p.benchmark.name not in _names(first)
    ]
    remarks += [LEGEND] if any(evaluation.evidence for _, evaluation in evaluated) else []
    setup = tuple(_setup_differences(first, second))
    return Comparison(setup, tuple(remarks), tuple(sections(evaluated)), evaluated)


def _pairs(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Pair strategies of equal text, else those whose name is unique in both runs."""
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    pairs = [(name, name) for name in first if name in second]
    rest = [[(_name(spec), spec) for spec in side if (spec, spec) not in pairs] for side in (first, second)]
    named = [Counter(name for name, _ in side) for side in rest]
    once = [name for name, count in named[0].items() if count == named[1][name] == 1]
    texts = [dict(side) for side in rest]
    return pairs + [(texts[0][name], texts[1][name]) for name in once]


def _name(spec: str) -> str:
    """Return the name of a strategy without its options, such as "vhr+vcd"."""
    return "+".join(parse(part)[0] for part in split(spec))


def _names(run: Run) -> set[str]:
    return {part.benchmark.name for part in run.parts}


def _setup_differences(first: Run, second: Run) -> list[tuple[str, str, str]]:
    old, new = first.setup, second.setup
    found = list(differences(old, new))
    found = [
        difference for difference in found if not difference[0].startswith("options.")
    ]  # "fitted" tells these, too
    return found + [
        (w, a, b)
        for w, b, a in differences(new, old)
        if not w.startswith("options.") and w not in {where for where, *_ in found}
    ]


def _common_items(part: Part, other: Part) -> list[Item]:
    """Return the items that both runs ask about the same picture."""
    return [item for item in _same_items(part, other) if not _has_other_picture(item, part, other)]


def _same_items(part: Part, other: Part) -> list[Item]:
    others = {item.id: item for item in other.items}
    return [item for item in part.items if others.get(item.id) == item]


def _has_other_picture(item: Item, part: Part, other: Part) -> bool:
    digests = [one.digests.get(item.picture or "") for one in (part, other)]
    return None not in digests and digests[0] != digests[1]


def _picture_remarks(part: Part, other: Part) -> list[str]:
    """Return a remark on equal items about different pictures."""
    differing = sum(_has_other_picture(item, part, other) for item in _same_items(part, other))
    told = f"{part.benchmark.name}: {differing} items are about other pictures of the same name: left out"
    return [told] if differing else []


def _name_remarks(part: Part, other: Part, answered: Sequence[Item]) -> list[str]:
    """Return a remark on items that both runs have answered, about pictures that only their names tell apart."""
    pictures = [item.picture for item in answered if item.picture is not None]
    unknown = sum(picture not in part.digests or picture not in other.digests for picture in pictures)
    told = (
        f"{part.benchmark.name}: {unknown} of {len(answered)} items are about pictures of which a run has no digest "
        "(older versions kept none): taken to be the same by name"
    )
    return [told] if unknown else []


def _evaluate_pair(
    first: tuple[Run, Part, str], second: tuple[Run, Part, str], common: Sequence[Item], remarks: list[str]
) -> tuple[Part, Evaluation]:
    """Evaluate one strategy of each run on the common items, like two strategies of one run."""
    lineup = _lineup(first, second)
    names = lineup.arms
    rows = [
        [replace(row, strategy=f"{row.strategy} ({side})") for row in run.rows(part)]
        for side, (run, part, _) in zip(_SIDES, (first, second), strict=True)
    ]
    rows = [[row for row in side if row.strategy in lineup.everyone] for side in rows]
    own = [[row for row in side if row.strategy in names] for side in rows]
    texts = [{row.item: row.text for row in strategy_rows if row.error is None} for strategy_rows in own]
    both = [item for item in common if item.id in texts[0] and item.id in texts[1]]
    changed = sum(texts[0][item.id] != texts[1][item.id] for item in both)
    remarks += [told for told in _name_remarks(first[1], second[1], both) if told not in remarks]
    remarks.append(f"{first[1].benchmark.name}, {first[2]}: {changed} of {len(both)} answers differ")
    judges = [
        {row.extra["judgement"]["judge"] for row in strategy_rows if row.extra and "judgement" in row.extra}
        for strategy_rows in own
    ]
    if judges[0] != judges[1]:
        judge_names = " and ".join(", ".join(sorted(map(str, strategy_rows))) or "no judge" for strategy_rows in judges)
        remarks.append(
            f"{first[1].benchmark.name}: judged by {judge_names}; what judges of different kinds say does not compare"
        )
    part = replace(first[1], items=list(common))
    evaluated = part.benchmark.evaluate(part.items, [*rows[0], *rows[1]], names, lineup)
    return part, replace(evaluated, costs=())  # batches of two runs have nothing to do with each other


def _lineup(first: tuple[Run, Part, str], second: tuple[Run, Part, str]) -> Lineup:
    """Return both strategies, and the second run's twins and controls."""
    arms = tuple(f"{arm} ({side})" for side, (*_, arm) in zip(_SIDES, (first, second), strict=True))
    beside = lineup_of(second[0].strategies)
    twins = tuple(f"{twin} ({_SIDES[1]})" for twin in beside.twins.get(second[2], ()))
    controls, searches = (tuple(f"{name} ({_SIDES[1]})" for name in own) for own in (beside.controls, beside.searches))
    rules = {
        f"{name} ({side})": rule
        for side, (run, part, _) in zip(_SIDES, (first, second), strict=True)
        for name, rule in run.rules(part).items()
    }
    return Lineup(arms, {arms[1]: twins}, controls, rules, searches)
