"""The page of a reproduction, in Markdown: ours beside the published figures, the differences, and the evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmhall.benchmarks.evaluation import Evaluation
from mmhall.benchmarks.report.evidence import LEGEND, figures_text
from mmhall.benchmarks.report.table import amber_sections
from mmhall.benchmarks.reproduce.comparison import Comparison, compare
from mmhall.benchmarks.reproduce.memory import local_parameters
from mmhall.benchmarks.reproduce.protocol import Protocol, Step
from mmhall.benchmarks.reproduce.record import LOCAL, Record
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.errors import RunError
from mmhall.files import atomic_path
from mmhall.models import find_model_path

FILE = "reproduction.md"
TINY = 0.1  # share of the protocol's parameters below which a run is a rehearsal
SAME = 0.01  # relative difference of parameters within which a local model may be the protocol's
READING = (
    'Published figures are as printed. [low, high] is our 95 % interval over pictures; "theirs is" says whether the '
    "published figure lies in it, which is no test, as theirs varies, too. Gain: minus the baseline of the same "
    "source, and minus our baseline. Figures under different conditions do not compare; what differs is listed below "
    "each table."
)

COLUMNS = ("strategy", "figure (%)", "published", "ours", "ours - published", "theirs is", "gain: theirs / ours")


@dataclass(frozen=True, slots=True)
class Done:
    """A step that has run.

    Attributes:
        step: The step.
        run: Its run.
        evaluated: Evaluation of each benchmark.
        remarks: In what its data differs from the published one.
    """

    step: Step
    run: Run
    evaluated: Sequence[tuple[Part, Evaluation]]
    remarks: tuple[str, ...] = ()


def write_page(folder: Path, text: str) -> Path:
    """Write the page to its file in a folder; return the file.

    Raises:
        RunError: It cannot be written.
    """
    path = folder / FILE
    try:
        with atomic_path(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def make_page(protocol: Protocol, record: Record, done: Sequence[Done], left_out: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        protocol: The protocol.
        record: What was asked for, with the revisions.
        done: The steps that have run.
        left_out: Name of a step that could not run, to the reason.
    """
    lines = [f"# {protocol.name}: published figures and ours", ""]
    lines += [f"**{warning}**\n" for warning in model_warnings(protocol, record)]
    lines += [*_provenance(record, done), ""]
    lines += [f"- Not run: step {name}: {reason}" for name, reason in left_out.items()]
    lines += ["", READING, "", LEGEND, ""]
    if not protocol.published:
        lines += [f"No published figure of {protocol.model} is listed; the tables are ours alone.", ""]
    for one in done:
        lines += _step(one, protocol)
    return "\n".join(lines).rstrip() + "\n"


def model_warnings(protocol: Protocol, record: Record) -> list[str]:
    """Return what a reader must know first where the model is not the protocol's."""
    if record.model == protocol.model:
        return []
    if record.revision_from != LOCAL:
        return [f"Another model: {record.model}, not {protocol.model}; the published figures are not of this model."]
    folder = find_model_path(str(Path(record.model).expanduser()) if record.model != "embedded" else record.model)
    family = str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
    count = local_parameters(folder)
    size = f"{count / 1e6:.1f} million parameters, {protocol.model} has {protocol.shape.parameters / 1e6:.0f}"
    warnings = []
    if count < TINY * protocol.shape.parameters:
        warnings.append(
            f"Rehearsal on a tiny model, random or taught something else ({record.model}: {size}). It shows that every "
            "step works; its figures say nothing about the published ones."
        )
    elif abs(count / protocol.shape.parameters - 1) < SAME:
        warnings.append(f"A local model: {record.model}. Whether it is {protocol.model} cannot be told from its files.")
    else:
        warnings.append(f"A local model: {record.model} ({size}), which need not be {protocol.model}.")
    if family != protocol.family:
        warnings.append(f"Wrong family: {record.model} is a {family} model, the protocol is for {protocol.family}.")
    return warnings


def _provenance(record: Record, done: Sequence[Done]) -> Iterator[str]:
    revision = f" at {record.revision}" if record.revision else ""
    yield f"- Model: {record.model}{revision} ({record.revision_from})."
    for setup in [one.run.store.setup() for one in done[:1]]:
        versions = ", ".join(f"{name} {number}" for name, number in setup["versions"].items())
        yield f"- Weights {setup['weights']}, {setup['dtype']}, {setup['device']}; {versions}."
    for id_, commit in record.datasets.items():
        yield f"- Data: {id_} at {commit or 'no revision yet'}."
    for name in ("pope", "coco", "amber"):
        if getattr(record, name) is not None:
            yield f"- Data: --{name} {getattr(record, name)}."
    folders = " ".join(str(one.run.store.path.parent) for one in done)
    yield f"- Every table, and examples: `mmhall report {folders} --html report.html`."
    if record.limit is not None:
        yield f"- Only the first {record.limit} pictures of each step."


def _step(done: Done, protocol: Protocol) -> Iterator[str]:
    yield f"## {done.step.name}"
    yield ""
    answered, expected = done.run.answered, done.run.expected
    for part, evaluation in done.evaluated:
        yield f"- {part.benchmark}: {evaluation.scored} of {evaluation.expected} items answered by all strategies."
        yield from (f"- {part.benchmark.name}: {remark}" for remark in part.remarks)
    yield from (f"- Differs from the published data: {remark}." for remark in dict.fromkeys(done.remarks))
    yield f"- {answered} of {expected} answers."
    yield ""
    for part, evaluation in done.evaluated:
        for published in protocol.published:
            if published.step == done.step.name and published.benchmark == part.benchmark.name:
                yield from _comparison(compare(done.run, part, evaluation, published))
    for section in amber_sections(done.evaluated):
        yield from _table((section.title, *section.metrics), [(line.strategy, *line.values) for line in section.lines])
    for part, evaluation in done.evaluated:
        yield from _evidence(part, evaluation)


def _comparison(comparison: Comparison) -> Iterator[str]:
    published = comparison.published
    yield f"### {published.benchmark}, {published.source}"
    yield ""
    rows = []
    for pair in comparison.pairs:
        ours = "no value" if pair.ours is None else f"{pair.ours:.1f}"
        ours += "" if pair.low is None or pair.high is None else f" [{pair.low:.1f}, {pair.high:.1f}]"
        gap = "" if pair.ours is None else f"{pair.ours - pair.published:+.1f}"
        gains = "" if pair.gain is None else f"{pair.published_gain:+.1f} / {pair.gain:+.1f}"
        name = f"{pair.group}, {pair.metric}"
        rows.append((f"`{pair.strategy}`", name, _printed(pair.published), ours, gap, pair.verdict, gains))
    yield from _table(COLUMNS, rows)
    yield from (f"- {difference}" for difference in comparison.differences)
    if published.remark:
        yield f"- {published.remark}"
    yield ""


def _printed(value: float) -> str:
    """Format a figure as it is printed, with one or two decimals."""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


def _evidence(part: Part, evaluation: Evaluation) -> Iterator[str]:
    """Yield the ticks of the benchmark's groups, without the paired comparisons, which the report has."""
    rows = [
        (
            f"`{row.strategy}`",
            row.group,
            f"{row.metric.name} {figures_text(row)}",
            row.better_than_baseline,
            row.better_than_twins,
            row.better_than_controls,
            f"{row.changed / max(1, row.answers):.1%}",
            row.verdict,
        )
        for row in evaluation.evidence
    ]
    if rows:
        yield f"### {part.benchmark.name}, evidence"
        yield ""
        columns = ("strategy", "group", "figure (%)", "> baseline", "> twins", "> plain", "changed", "verdict")
        yield from _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    yield from (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    yield ""
