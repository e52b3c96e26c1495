"""The command `mmhall report`: print the results of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from mmhall.cli.console import parse_output_path

if TYPE_CHECKING:
    from mmhall.benchmarks.report.sections import Section
    from mmhall.benchmarks.report.table import Evaluated
    from mmhall.benchmarks.run.runs import Run
    from mmhall.results.capability import Capability


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, written by `mmhall bench`.")],
    html: Annotated[
        Path | None,
        typer.Option(parser=parse_output_path, metavar="FILE", help="Also write the report as one HTML page."),
    ] = None,
    read_as: Annotated[
        list[str],
        typer.Option(help="Apply another rule to the stored answers, such as \"pope(rule='official')\"; repeatable."),
    ] = [],  # noqa: B006
    capability: Annotated[
        list[str],
        typer.Option(
            metavar="[STRATEGY=]FILE",
            help="Results file of lmms-eval with MMStar, MMBench or MM-Vet, whose scores stand beside the gain; "
            "repeatable. Name the strategy if lmms-eval did not run `--model mmhall`.",
        ),
    ] = [],  # noqa: B006
    relabel: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read POPE's answers a second time with other labels, such as RePOPE's: a file, or a folder of files, "
            "in POPE's format.",
        ),
    ] = None,
    aggregate: Annotated[
        bool,
        typer.Option("--aggregate", help="Take the runs together: seeds of the draws, the pictures or the training."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Print the results of runs, finished or not.

    Example: mmhall report runs/first --html first.html
    """
    from mmhall.benchmarks.report.page import write_page
    from mmhall.benchmarks.report.settings import setting_lines
    from mmhall.benchmarks.run.relabel import read_again
    from mmhall.benchmarks.run.runs import reopen
    from mmhall.errors import OptionError, RunError

    if capability and len(runs) > 1:
        raise OptionError("report", "capability", capability[0], "given with a single run")
    opened = [reopen(run).read_as(read_as) for run in runs]
    if aggregate and html is not None:
        raise OptionError("report", "html", str(html), "left out with --aggregate, which prints tables only")
    if aggregate and (relabel is not None or capability):
        raise OptionError("report", "aggregate", True, "left out with --relabel and --capability")
    if aggregate:
        print_aggregate(opened, as_json=as_json)
        return
    scores = _capabilities(opened[0], capability)
    evaluated: list[tuple[Run, Evaluated]] = [(run, run.evaluate()) for run in opened]
    if relabel is not None:
        evaluated = [(run, read_again(run, evaluation, relabel)) for run, evaluation in evaluated]
    for number, (run, evaluation) in enumerate(evaluated):
        if len(opened) > 1 and not as_json:
            print(f"{'' if number == 0 else chr(10)}== {run.store.path.parent}\n")
        print_run(run, evaluation, scores, as_json=as_json)
    for line in setting_lines(opened) if len(opened) > 1 and not as_json else ():
        print(f"\nall runs: {line}")
    if html is not None:
        try:
            write_page(evaluated, html, scores)
        except OSError as error:
            raise RunError(f"{html}: cannot be written: {error.strerror}") from error
        typer.echo(f"wrote {html}", err=True)


def _capabilities(run: Run, values: Sequence[str]) -> dict[str, Capability]:
    """Read the capability scores of a run's strategies.

    Raises:
        MmhallError: See `read_capability` and `by_arm`.
    """
    from mmhall.benchmarks.report.capability import by_arm
    from mmhall.lmms_eval.results import read_capability
    from mmhall.options import split

    pairs = []
    for value in values:
        *strategy, file = [value] if Path(value).is_file() else split(value, "=")
        pairs.append(("=".join(strategy), read_capability(Path(file))))
    return by_arm(run, pairs)


def print_runs(runs: Sequence[Run], *, as_json: bool) -> Evaluated:
    """Print the results of one run, or of several together; return what was printed."""
    if len(runs) > 1:
        return print_aggregate(runs, as_json=as_json)
    evaluated = runs[0].evaluate()
    print_run(runs[0], evaluated, as_json=as_json)
    return evaluated


def print_run(
    run: Run, evaluated: Evaluated, capabilities: Mapping[str, Capability] = MappingProxyType({}), *, as_json: bool
) -> None:
    """Print the results of a run as tables, or as JSON.

    Args:
        run: The run.
        evaluated: Its evaluation.
        capabilities: Strategy to its capability, where it was measured.
        as_json: Whether to print JSON.
    """
    from mmhall.benchmarks.report.capability import REMARK, as_record, capability_section
    from mmhall.benchmarks.report.settings import setting_lines
    from mmhall.benchmarks.report.table import as_data, remarks

    if as_json:
        _print_json(as_data(evaluated, run.current_setup) | {"capability": as_record(run, capabilities)})
        return
    more = [capability_section(run, evaluated, capabilities)] if capabilities else []
    texts = [*remarks(evaluated, run.fitted, run.left_out), *(() if capabilities else (REMARK,)), *setting_lines([run])]
    _print_tables(evaluated, texts, more)


def print_aggregate(runs: Sequence[Run], *, as_json: bool) -> Evaluated:
    """Print the results of several runs together; return them."""
    from mmhall.benchmarks.report.aggregate import aggregate
    from mmhall.benchmarks.report.table import as_data, remarks

    found = aggregate(runs)
    if as_json:
        setup = runs[0].current_setup | {"strategies": list(found.fitted)}
        _print_json(as_data(found.evaluated, setup) | {"aggregated": found.remarks})
    else:
        _print_tables(found.evaluated, [*found.remarks, *remarks(found.evaluated, found.fitted)])
    return found.evaluated


def _print_json(data: Mapping[str, object]) -> None:
    import json

    print(json.dumps(data, indent=1))


def _print_tables(evaluated: Evaluated, remarks: Sequence[str], more: Sequence[Section] = ()) -> None:
    from mmhall.benchmarks.report.table import COST, cost_lines, sections
    from mmhall.cli.console import align_columns

    print_sections([*sections(evaluated), *more])
    print(f"cost\n{align_columns([COST, *cost_lines(evaluated)])}\n")
    for remark in remarks:
        print(remark)


def print_sections(sections: Sequence[Section]) -> None:
    """Print tables, with the differences from the baseline below the values of each strategy."""
    from mmhall.cli.console import align_columns

    for section in sections:
        rows = [("strategy", *section.metrics)]
        for line in section.lines:
            rows.append((line.strategy, *line.values))
            below = [text.splitlines() for text in line.differences]
            rows += [("", *texts) for texts in zip_longest(*below, fillvalue="")]
        print(f"{section.title}\n{align_columns(rows)}\n")
