"""Positive and negative controls: each strategy on a model with the mechanism it claims to act on, and on one without.

    python -m mmhall.benchmarks.mechanisms --out runs/mechanisms

`EXPECTATIONS` declares what should happen; nothing in it was chosen after the outcome. For every model, `mmhall
diagnose` measures whether it has the mechanism, and `mmhall bench` runs the strategies with their random twins and the
controls that need no new answers. Both go on where a stopped run ended.

Helps           better than the baseline, its twins and the plain controls, on the benchmark's primary metric: none of
                the three ticks is "no", and the first is "yes" (`evidence/ticks.py`).
Acts            at least a tenth of the answers differ from the baseline's, whatever for.
Does not help   anything but "helps".
Does nothing    fewer than one in a hundred answers differ.
Unknown         whether it helps, where it decodes by another rule than the baseline (OPERA's search against `beam`),
                and everything on a model that is not shipped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmhall.benchmarks.diagnosis.findings import GAZE, HEADS, PRIOR_BELIEF, SINKS, STRIPES, Mechanism
from mmhall.benchmarks.diagnosis.targets import targets_of
from mmhall.benchmarks.evidence import Evidence
from mmhall.benchmarks.evidence.ticks import is_gain
from mmhall.benchmarks.report.evidence import figures_text
from mmhall.benchmarks.run.runs import reopen
from mmhall.errors import RunError
from mmhall.models import SHIPPED

Expected = Literal["helps", "acts", "does not help", "does nothing"]
HELPS, ACTS, NO_HELP, NOTHING = "helps", "acts", "does not help", "does nothing"
TWINS_TOO, HURTS, HARDLY = "no more than a control", "hurts", "hardly acts"
LEAST_ACTING = 0.1  # share of answers
TWINS, SCENES = 5, 100
NOT_SHIPPED = "model not shipped"
PLAIN, PRIOR, MECHANISMS = "embedded", "embedded/prior", "embedded/mechanisms"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a strategy should do on two models.

    Attributes:
        strategy: The strategy, as `mmhall bench` takes it.
        mechanism: What it claims to act on.
        benchmark: The benchmark whose primary metric decides.
        group: Its group of items.
        carrier: The model that has the mechanism.
        on_carrier: What should happen there.
        control: The model that does not have it.
        on_control: What should happen there.
        baseline: The plain strategy that decodes most alike.
    """

    strategy: str
    mechanism: Mechanism
    benchmark: str
    group: str
    carrier: str
    on_carrier: Expected
    control: str = PLAIN
    on_control: Expected = "does not help"
    baseline: str = "greedy"

    def sides(self) -> tuple[tuple[str, Expected, bool], ...]:
        """Return each model, what should happen there, and whether it has the mechanism."""
        return (self.carrier, self.on_carrier, True), (self.control, self.on_control, False)


EXPECTATIONS = (
    Expectation("var", SINKS, "chair", "captions", MECHANISMS, "helps", on_control="does nothing"),
    Expectation("gift", GAZE, "pope", "adversarial", MECHANISMS, "helps"),
    Expectation("vhr", HEADS, "chair", "captions", MECHANISMS, "helps"),
    Expectation("vdd", PRIOR_BELIEF, "chair", "captions", PRIOR, "helps"),
    Expectation("vcd", PRIOR_BELIEF, "pope", "adversarial", PRIOR, "helps"),
    Expectation("opera", STRIPES, "chair", "captions", MECHANISMS, "acts", baseline="beam"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """What happened to one expectation on one model.

    Attributes:
        expectation: The expectation.
        model: The model.
        expected: What should happen.
        measured: The figure of the mechanism, as measured; None: it was not.
        carries: Whether it was as declared: in range on the carrier, out of range on the control.
        outcome: What happened, or why nothing is known.
        holds: Whether it is what was expected; None: nothing is known.
        figures: The primary metric beside that of twins and baseline.
        changed: Share of answers that differ from the baseline's; None: nothing is known.
    """

    expectation: Expectation
    model: str
    expected: Expected
    measured: float | None = None
    carries: bool | None = None
    outcome: str = NOT_SHIPPED
    holds: bool | None = None
    figures: str = ""
    changed: float | None = None


def outcome_of(evidence: Evidence) -> str:
    """Return what a strategy did, in one of the words of this module."""
    if evidence.did_nothing:
        return NOTHING
    ticks = evidence.better_than_baseline, evidence.better_than_twins, evidence.better_than_controls
    if ticks[0] == "yes":
        return HELPS if "no" not in ticks else TWINS_TOO
    if evidence.over_baseline is not None and evidence.rules is None and is_loss(evidence):
        return HURTS
    return ACTS if evidence.changed >= LEAST_ACTING * evidence.answers else HARDLY


def is_expected(expected: Expected, evidence: Evidence) -> bool | None:
    """Whether a strategy did what was expected; None: it decodes by another rule, so that no gain can be told."""
    if expected == ACTS:
        return evidence.changed >= LEAST_ACTING * evidence.answers
    if expected == NOTHING:
        return evidence.did_nothing
    if evidence.rules is not None:
        return None
    return (outcome_of(evidence) == HELPS) == (expected == HELPS)


def is_loss(evidence: Evidence) -> bool:
    """Whether a strategy is significantly worse than the baseline."""
    turned = replace(evidence.metric, better="lower" if evidence.metric.better == "higher" else "higher")
    return evidence.over_baseline is not None and is_gain(turned, evidence.over_baseline)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        out: Folder of the runs.
        scenes: Number of drawn scenes.
        workers: Number of processes of a run.
        twins: Number of random twins of each strategy.
        run: Runs a command line of mmhall, given without the program's name.
    """

    out: Path
    scenes: int
    workers: int
    twins: int
    run: Callable[[Sequence[str]], None]

    def folder(self, model: str) -> Path:
        """Return the folder of a model."""
        return self.out / model.replace("/", "-")

    def diagnosis(self, model: str) -> dict[str, float | None]:
        """Return the figures of a model's diagnosis by key, measured once."""
        file = self.folder(model) / "diagnosis.json"
        if not file.is_file():
            self.run(["diagnose", model, "--scenes", str(self.scenes), "--out", str(file)])
        figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
        return {figure["key"]: figure["value"] for figure in figures}

    def pictures(self, model: str) -> Path:
        """Return the annotation file of scenes of the kind that a model is made for, drawn once."""
        folder = self.folder(model) / "scenes"
        file = folder / "annotations.json"
        if not file.is_file():
            options = targets_of(model).scenes
            named = [part for option, value in options.items() for part in (f"--{option}", str(value))]
            self.run(["scenes", "--n", str(self.scenes), *named, "--force", "--out", str(folder)])
        return file

    def evidence(self, model: str, rows: Sequence[Expectation]) -> dict[str, Evidence]:
        """Return the evidence of strategies on one model, benchmark and baseline, by strategy.

        Args:
            model: The model.
            rows: Expectations with the same benchmark and baseline.
        """
        first = rows[0]
        folder = self.folder(model) / f"{first.benchmark}-{first.baseline}"
        specs = list(dict.fromkeys([first.baseline, *(row.strategy for row in rows)]))
        strategies = [part for spec in specs for part in ("--strategy", spec)]
        size = ["--data", str(self.pictures(model)), "--twins", str(self.twins), "--workers", str(self.workers)]
        self.run(["bench", first.benchmark, "--model", model, *strategies, *size, "--out", str(folder)])
        ((_, evaluation),) = reopen(folder).evaluate()
        groups = {row.strategy: row.group for row in rows}
        return {one.strategy: one for one in evaluation.evidence if groups.get(one.strategy) == one.group}


def compare(expectations: Sequence[Expectation], plan: Plan) -> Iterator[Line]:
    """Yield what happened to each expectation, on the carrier and on the control.

    Args:
        expectations: The expectations.
        plan: What to run.

    Raises:
        RunError: A command failed.
    """
    found: dict[tuple[str, str, str], dict[str, Evidence]] = {}
    figures: dict[str, Mapping[str, float | None]] = {}
    for row in expectations:
        for model, expected, carrier in row.sides():
            if model not in SHIPPED:
                yield Line(row, model, expected)
                continue
            key = model, row.benchmark, row.baseline
            if key not in found:
                found[key] = plan.evidence(model, [one for one in expectations if _asks(one, *key)])
            if model not in figures:
                figures[model] = plan.diagnosis(model)
            measured = figures[model].get(row.mechanism.key)
            carries = None if measured is None else row.mechanism.present.holds(measured) == carrier
            evidence = found[key][row.strategy]
            yield Line(
                row,
                model,
                expected,
                measured,
                carries,
                outcome_of(evidence),
                is_expected(expected, evidence),
                figures_text(evidence),
                evidence.changed / evidence.answers,
            )


def _asks(row: Expectation, model: str, benchmark: str, baseline: str) -> bool:
    return model in (row.carrier, row.control) and (row.benchmark, row.baseline) == (benchmark, baseline)


HEAD = (
    "strategy",
    "model",
    "mechanism (its range): measured",
    "expected",
    "outcome",
    "as expected",
    "changed",
    "figure",
)


def cells(line: Line) -> tuple[str, ...]:
    """Return a line of the table, in the columns of `HEAD`."""
    row, yes_no = line.expectation, {True: "yes", False: "no", None: "unknown"}
    measured = "not measured"
    if line.measured is not None:
        there = row.mechanism.present.holds(line.measured)
        doubt = "" if line.carries else ", not as declared"
        measured = f"{line.measured:.2f}, {'present' if there else 'absent'}{doubt}"
    return (
        row.strategy,
        line.model,
        f"{row.mechanism.name} ({row.mechanism.present}): {measured}",
        line.expected,
        line.outcome,
        yes_no[line.holds],
        "" if line.changed is None else f"{line.changed:.0%}",
        f"{row.benchmark} {row.group}: {line.figures}" if line.figures else "",
    )


def markdown(lines: Sequence[Line]) -> str:
    """Return the table of expectations and outcomes in Markdown."""
    rows = [HEAD, ("---",) * len(HEAD), *map(cells, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def run_mmhall(arguments: Sequence[str]) -> None:
    """Run a command line of mmhall in a process of its own; its results are read from its files.

    Raises:
        RunError: It failed.
    """
    done = subprocess.run([sys.executable, "-m", "mmhall", *arguments], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RunError(f"`mmhall {' '.join(arguments)}` ended with {done.returncode}; its message stands above")


def main() -> None:
    """Run every expectation, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; a stopped one goes on")
    parser.add_argument("--scenes", type=int, default=SCENES, help="number of drawn scenes")
    parser.add_argument("--twins", type=int, default=TWINS, help="number of random twins of each strategy")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    options = parser.parse_args()
    plan = Plan(options.out, options.scenes, options.workers, options.twins, run_mmhall)
    try:
        print(markdown(list(compare(EXPECTATIONS, plan))))
    except RunError as error:
        sys.exit(f"mechanisms: {error}")


if __name__ == "__main__":
    main()
