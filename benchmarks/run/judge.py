"""Judging of answers by models or people, only on request of the user.

Judgements are stored in the run, beside the answers (`mmhall.results.judgements`): replies to prompts written
here come from an endpoint (`judge`) or from a file (`import_judgements`). Failures are recorded,
not scored, and tried again by the next call.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmhall.benchmarks.base import Benchmark
from mmhall.benchmarks.data.reading import check_unique, read_records, read_text
from mmhall.benchmarks.rules.judged import Judged, fill_template
from mmhall.benchmarks.run.endpoint import Endpoint
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.errors import DataError, EndpointError, OptionError, RunError
from mmhall.results.judgements import Judgement, Judgements
from mmhall.results.store import Row

IN_VAIN = 5  # failures in a row that end a call
REPLIES = "replies in JSON Lines (item, strategy, reply)"


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to be judged, with the prompt for the judge."""

    benchmark: str
    item: str
    strategy: str
    answer: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one call.

    Attributes:
        judge: Name of the judge.
        added: Number of answers judged.
        failed: Number of failures.
        judged_before: Number of answers judged in earlier calls.
    """

    judge: str
    added: int
    failed: int
    judged_before: int


def part_to_judge(run: Run, name: str | None = None) -> Part:
    """Return the part of a run that a judge scores.

    Args:
        run: The run.
        name: Name of the benchmark; None: the only one with a judge.

    Raises:
        OptionError: There is no such benchmark, or several.
    """
    judged_parts = {
        p.benchmark.name: p for p in run.parts if isinstance(p.benchmark, Judged) and p.benchmark.wants_judge
    }
    if name is None and len(judged_parts) == 1:
        return next(iter(judged_parts.values()))
    if not judged_parts:
        written = ", ".join(str(p.benchmark) for p in run.parts)
        raise OptionError("judge", "run", written, "one with mmhal or hallusion(rule='judge'): others need no judge")
    if name not in judged_parts:
        raise OptionError("judge", "benchmark", name, f"one of {', '.join(judged_parts)}")
    return judged_parts[name]


def template_of(benchmark: Benchmark, file: Path | None) -> str:
    """Return the prompt template for the judge: the file's, else the benchmark's own.

    Raises:
        OptionError: There is no template.
        DataError: The file cannot be read.
    """
    if file is not None:
        return read_text(file, "a prompt for the judge")
    template = benchmark.template if isinstance(benchmark, Judged) else ""
    if not template:
        raise OptionError("judge", "template", None, f"a file: the authors' prompt for {benchmark.name} does not ship")
    return template


def requests(run: Run, part: Part, template: str) -> Iterator[Request]:
    """Yield a prompt for every answer of a benchmark, in the order of its items.

    Raises:
        DataError: The template does not fit the benchmark.
    """
    benchmark = part.benchmark
    assert isinstance(benchmark, Judged)
    rows: dict[str, list[Row]] = {}
    for row in run.store.rows(benchmark.name):
        if row.error is None:
            rows.setdefault(row.item, []).append(row)
    for item in part.items:
        for row in rows.get(item.id, ()):
            prompt = fill_template(template, benchmark.judge_fields(item, row.text))
            yield Request(benchmark.name, item.id, row.strategy, row.text, prompt)


def judge(
    run: Run, part: Part, endpoint: Endpoint, template: str, progress: Callable[[int], None] = lambda count: None
) -> Outcome:
    """Have an endpoint judge the answers it has not judged yet; each judgement is committed at once.

    Args:
        run: The run.
        part: The benchmark.
        endpoint: The judge.
        template: Prompt template for the judge.
        progress: Called with the number of answers just processed.

    Raises:
        EndpointError: The endpoint refuses, or fails five times in a row; judgements so far are stored.
        RunError: The run cannot be written, or has another judge of this name; then nothing is asked.
    """
    name = f"{endpoint.model} ({hashlib.sha256(template.encode()).hexdigest()[:8]})"
    facts = {"model": endpoint.model, "template": template, "temperature": 0}
    judgements = Judgements.open(run.store.path.parent)
    judgements.check(name, facts)
    judged = {
        (j.item, j.strategy) for j in judgements.all(part.benchmark.name) if j.judge == name and j.reply is not None
    }
    added = failed = in_vain = 0
    for request in requests(run, part, template):
        progress(1)
        if (request.item, request.strategy) in judged:
            continue
        reply, error = _ask(endpoint, request.prompt)
        judgements.add(name, facts, [_make_judgement(request, name, reply, None if error is None else str(error))])
        if error is None:
            added, in_vain = added + 1, 0
            continue
        failed, in_vain = failed + 1, in_vain + 1
        if error.final or in_vain == IN_VAIN:
            row = "" if error.final else f"{in_vain} answers in a row could not be judged; "
            raise EndpointError(f"{row}{error}; {added} judged in this call are kept", final=True) from error
    return Outcome(name, added, failed, len(judged))


def _ask(endpoint: Endpoint, prompt: str) -> tuple[str | None, EndpointError | None]:
    try:
        return endpoint.ask(prompt), None
    except EndpointError as error:
        return None, error


def _make_judgement(request: Request, judge: str, reply: str | None, error: str | None) -> Judgement:
    return Judgement(request.benchmark, request.item, request.strategy, judge, request.answer, reply, error)


def import_judgements(run: Run, part: Part, file: Path, name: str) -> Outcome:
    """Import replies from JSON Lines with item, strategy and reply; an optional `answer` must equal the run's.

    Args:
        run: The run.
        part: The benchmark.
        file: The replies.
        name: Name of the judge.

    Raises:
        DataError: The file is malformed, or has replies to answers that the run lacks.
        RunError: The judge has another stored reply, or the run cannot be written.
    """
    answers = {(r.item, r.strategy): r for r in run.store.rows(part.benchmark.name) if r.error is None}
    records = [r for r in read_records(file, REPLIES) if r.fields.get("benchmark") in (None, part.benchmark.name)]
    judgements = Judgements.open(run.store.path.parent)
    earlier = {
        (j.item, j.strategy): j.reply for j in judgements.all(part.benchmark.name) if j.judge == name and j.reply
    }
    check_unique(((r.where, f"{r.text('item')}, {r.text('strategy')}") for r in records), "answer")
    imported = []
    for record in records:
        key = record.text("item"), record.text("strategy")
        row = answers.get(key)
        if row is None:
            raise DataError(f"{record.where}: the run has no answer to item {key[0]!r} with strategy {key[1]!r}")
        if record.fields.get("answer", row.text) != row.text:
            raise DataError(f"{record.where}: judges another answer than the run's {row.text[:60]!r}")
        reply = record.text("reply")
        if earlier.get(key, reply) != reply:
            raise RunError(f"{record.where}: judge {name!r} has another stored reply; give another name with --judge")
        imported.append(Judgement(part.benchmark.name, *key, name, row.text, reply))
    judgements.add(name, {"imported": True}, imported)
    return Outcome(name, sum((j.item, j.strategy) not in earlier for j in imported), 0, len(earlier))


def write_requests(judge_requests: Sequence[Request], file: Path) -> None:
    """Write prompts as JSON Lines for another judge; with a `reply` added to each line they can be imported.

    Raises:
        RunError: The file cannot be written.
    """
    lines = [
        {"benchmark": r.benchmark, "item": r.item, "strategy": r.strategy, "answer": r.answer, "prompt": r.prompt}
        for r in judge_requests
    ]
    try:
        file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror}") from error
