"""The command `mmhall report`: print the results of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmhall.cli.console import parse_output_path

if TYPE_CHECKING:
    from mmhall.benchmarks.report.sections import Section
    from mmhall.benchmarks.report.summary import Summary
    from mmhall.benchmarks.report.table import Evaluated
    from mmhall.benchmarks.run.runs import Run
    from mmhall.results.capability import Capability

Form = Literal["summary", "full", "markdown", "latex", "json"]
_READ = "summary", "full"  # forms for people: several runs have heads
_HINT = "Every table: mmhall report RUN --full; as a page: --html FILE; this table for a paper: --markdown, --latex"


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
    full: Annotated[bool, typer.Option("--full", help="Print every table, as wide as it is.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the first table as Markdown.")] = False,
    as_latex: Annotated[
        bool, typer.Option("--latex", help="Print the first table for LaTeX, with booktabs and amssymb.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Print the results of runs, finished or not: what they say of each strategy, and one table.

    Example: mmhall report runs/first --html first.html
    """
    from mmhall.benchmarks.report.settings import setting_lines
    from mmhall.benchmarks.run.relabel import read_again
    from mmhall.benchmarks.run.runs import reopen
    from mmhall.errors import OptionError, RunError

    form = choose_form("report", full=full, markdown=markdown, latex=as_latex, json=as_json)
    if capability and len(runs) > 1:
        raise OptionError("report", "capability", capability[0], "given with a single run")
    opened = [reopen(run).read_as(read_as) for run in runs]
    if aggregate and html is not None:
        raise OptionError("report", "html", str(html), "left out with --aggregate, which prints tables only")
    if aggregate and (relabel is not None or capability):
        raise OptionError("report", "aggregate", True, "left out with --relabel and --capability")
    if aggregate:
        print_aggregate(opened, form)
        return
    scores = _capabilities(opened[0], capability)
    evaluated: list[tuple[Run, Evaluated]] = [(run, run.evaluate()) for run in opened]
    if relabel is not None:
        evaluated = [(run, read_again(run, evaluation, relabel)) for run, evaluation in evaluated]
    for number, (run, evaluation) in enumerate(evaluated):
        if len(opened) > 1 and form in _READ:
            print(f"{'' if number == 0 else chr(10)}== {run.store.path.parent}\n")
        print_run(run, evaluation, form, scores)
    for line in setting_lines(opened) if len(opened) > 1 and form in _READ else ():
        print(f"\nall runs: {line}")
    if html is not None:
        from mmhall.benchmarks.report.page import write_page  # plots, which no other form needs

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


def choose_form(command: str, **flags: bool) -> Form:
    """Return the form in which results are printed: the one flag that is given, else the first screen.

    Raises:
        OptionError: Several are given.
    """
    from mmhall.errors import OptionError

    forms: tuple[Form, ...] = ("full", "markdown", "latex", "json")
    given = [form for form in forms if flags.get(form)]
    if len(given) > 1:
        raise OptionError(command, given[1], True, f"left out with --{given[0]}")
    return given[0] if given else "summary"


def print_runs(runs: Sequence[Run], form: Form) -> Evaluated:
    """Print the results of one run, or of several together; return what was printed."""
    if len(runs) > 1:
        return print_aggregate(runs, form)
    evaluated = runs[0].evaluate()
    print_run(runs[0], evaluated, form)
    return evaluated


def print_run(
    run: Run, evaluated: Evaluated, form: Form, capabilities: Mapping[str, Capability] = MappingProxyType({})
) -> None:
    """Print the results of a run.

    Args:
        run: The run.
        evaluated: Its evaluation.
        form: How to print them.
        capabilities: Strategy to its capability, where it was measured.
    """
    from mmhall.benchmarks.report.capability import REMARK, capability_section
    from mmhall.benchmarks.report.results import as_json as results_as_json
    from mmhall.benchmarks.report.settings import setting_lines
    from mmhall.benchmarks.report.summary import summarise
    from mmhall.benchmarks.report.table import remarks

    if form == "json":
        _print_json(results_as_json([run], evaluated, capabilities=capabilities))
        return
    more = [capability_section(run, evaluated, capabilities)] if capabilities else []
    beside = [*(() if capabilities else (REMARK,)), *setting_lines([run])]
    if form == "full":
        _print_tables(evaluated, [*remarks(evaluated, run.fitted, run.left_out), *beside], more)
        return
    _print_summary(summarise(run, evaluated), form)
    if form == "summary":
        print()
        print_sections(more)
        for line in (*beside, _HINT):
            print(line)


def print_aggregate(runs: Sequence[Run], form: Form) -> Evaluated:
    """Print the results of several runs together; return them."""
    from mmhall.benchmarks.report.aggregate import aggregate
    from mmhall.benchmarks.report.results import as_json as results_as_json
    from mmhall.benchmarks.report.summary import make_summary
    from mmhall.benchmarks.report.table import events, remarks

    found = aggregate(runs)
    if form == "json":
        _print_json(results_as_json(runs, found.evaluated, found.remarks))
    elif form == "full":
        _print_tables(found.evaluated, [*found.remarks, *remarks(found.evaluated, found.fitted)])
    else:
        title = f"{len(runs)} runs of {', '.join(found.fitted)}"
        happened = events(found.evaluated, found.fitted)
        _print_summary(make_summary(title, list(found.fitted), found.evaluated, found.remarks, happened), form)
        if form == "summary":
            print(f"\n{_HINT}")
    return found.evaluated


def _print_summary(summary: Summary, form: Form) -> None:
    from mmhall.benchmarks.report.formats import as_latex, as_markdown, as_text

    print({"markdown": as_markdown, "latex": as_latex}.get(form, as_text)(summary))


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
