"""mmhall score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score(
    benchmark: Annotated[str, typer.Argument(help='Such as: pope; "pope(pooled=True)".')],
    answers: Annotated[
        Path, typer.Argument(help="An export, or what the benchmark's or LLaVA's scripts or lmms-eval write.")
    ],
    data: Annotated[Path, typer.Option(help="What was asked: the benchmark's data, as for bench. No pictures needed.")],
    rule: Annotated[str | None, typer.Option(help="How answers are read: short for the option rule.")] = None,
    seed: Annotated[int, typer.Option(help="Seed the questions were made with, where the data needs one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Score answers produced elsewhere; they are matched by id, or by picture and question, never by position alone.

    Example: mmhall score pope answers.jsonl --rule official --data pope/coco
    """
    import hashlib
    import json
    from dataclasses import replace

    from mmhall.benchmarks import benchmark as make_benchmark
    from mmhall.benchmarks.base import Source
    from mmhall.benchmarks.data.hub import data_path
    from mmhall.benchmarks.report.table import as_data, remarks, sections
    from mmhall.benchmarks.run.scoring import score as scored
    from mmhall.cli.report import print_sections
    from mmhall.errors import OptionError
    from mmhall.options import parse

    made = make_benchmark(benchmark)
    if rule is not None:
        if "rule" in parse(benchmark, "benchmark")[1]:
            raise OptionError("score", "rule", rule, f"left out where the benchmark says it: {benchmark}")
        made = replace(made, rule=rule)
    _check_there(answers, data)
    found = scored(made, Source(data_path(str(data), made.name), seed=seed), answers)
    evaluated = [(found.part, found.evaluation)]
    if as_json:
        files = sorted(answers.glob("*.txt")) if answers.is_dir() else [answers]
        content = b"".join(file.read_bytes() for file in files)
        setup = {
            "benchmarks": {made.name: {"spec": str(made), "rule": made.rule, "items": found.items, "seed": seed}},
            "strategies": list(found.strategies),
            "answers": {"file": str(answers), "sha256": hashlib.sha256(content).hexdigest()},
            "remarks": list(found.part.remarks),
        }
        print(json.dumps(as_data(evaluated, setup), indent=1))
        return
    print_sections(sections(evaluated))
    for remark in remarks(evaluated, {strategy: strategy for strategy in found.strategies}):
        print(remark)


def _check_there(answers: Path, data: Path) -> None:
    """Refuse paths at which nothing is, before the hub is asked for the other one.

    Raises:
        DataError: Nothing is there.
    """
    from mmhall.benchmarks.data.hub import PREFIX
    from mmhall.errors import DataError
    from mmhall.files import no_file

    for path, what in ((answers, "a file of answers"), (data, "what was asked")):
        reason = no_file(path)
        if reason not in (None, "is a folder") and not str(path).startswith(PREFIX):
            raise DataError(f"{path}: {reason}; give {what}")
