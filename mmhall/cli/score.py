"""The command `mmhall score`: score answers that were produced elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score(
    benchmark: Annotated[str, typer.Argument(help='Benchmark, such as: pope; "pope(pooled=True)".')],
    answers: Annotated[
        Path,
        typer.Argument(
            help="Answers: an export, or a file written by the benchmark's or LLaVA's scripts, or by lmms-eval."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Data of the benchmark, as for bench; pictures are not needed.")],
    rule: Annotated[
        str | None, typer.Option(help="Rule that reads answers; the same as the benchmark's option rule.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the questions, if they were drawn from the data.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Score answers produced elsewhere, matched by id, or by picture and question, never by position alone.

    Example: mmhall score pope answers.jsonl --rule official --data pope/coco
    """
    import hashlib
    import json
    from dataclasses import replace

    from mmhall.benchmarks import benchmark as make_benchmark
    from mmhall.benchmarks.base import Source
    from mmhall.benchmarks.data.hub import data_path
    from mmhall.benchmarks.report.table import as_data, remarks, sections
    from mmhall.benchmarks.run.scoring import score as score_answers
    from mmhall.cli.report import print_sections
    from mmhall.errors import OptionError
    from mmhall.options import parse

    chosen = make_benchmark(benchmark)
    if rule is not None:
        if "rule" in parse(benchmark, "benchmark")[1]:
            raise OptionError("score", "rule", rule, f"left out where the benchmark says it: {benchmark}")
        chosen = replace(chosen, rule=rule)
    _check_paths(answers, data)
    scored = score_answers(chosen, Source(data_path(str(data), chosen.name), seed=seed), answers)
    evaluated = [(scored.part, scored.evaluation)]
    if as_json:
        files = sorted(answers.glob("*.txt")) if answers.is_dir() else [answers]
        content = b"".join(file.read_bytes() for file in files)
        setup = {
            "benchmarks": {
                chosen.name: {"spec": str(chosen), "rule": chosen.rule, "items": scored.items, "seed": seed}
            },
            "strategies": list(scored.strategies),
            "answers": {"file": str(answers), "sha256": hashlib.sha256(content).hexdigest()},
            "remarks": list(scored.part.remarks),
        }
        print(json.dumps(as_data(evaluated, setup), indent=1))
        return
    print_sections(sections(evaluated))
    for remark in remarks(evaluated, {strategy: strategy for strategy in scored.strategies}):
        print(remark)


def _check_paths(answers: Path, data: Path) -> None:
    """Check that both paths exist, before anything is read from the hub.

    Raises:
        DataError: A path does not exist.
    """
    from mmhall.benchmarks.data.hub import PREFIX
    from mmhall.errors import DataError
    from mmhall.files import why_not_a_file

    for path, what in ((answers, "a file of answers"), (data, "the data of the benchmark")):
        reason = why_not_a_file(path)
        if reason not in (None, "is a folder") and not str(path).startswith(PREFIX):
            raise DataError(f"{path}: {reason}; give {what}")
