"""The command `mmhall judge`: have answers judged by a model or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmhall.benchmarks.run.judge import Outcome
    from mmhall.benchmarks.run.runs import Part, Run

KEY = "MMHALL_JUDGE_KEY"


def judge(
    run: Annotated[Path, typer.Argument(help="Run folder, written by `mmhall bench`.")],
    replies: Annotated[Path | None, typer.Option(help="Import replies from this JSON Lines file.")] = None,
    requests: Annotated[
        Path | None, typer.Option(help="Write the prompts to this file, to be answered elsewhere.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Ask the judge at this OpenAI-compatible address.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the judge's model at that address.")] = None,
    template: Annotated[
        Path | None, typer.Option(help="File with the judge's prompt. By default, the benchmark's own.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Benchmark to judge, if the run has several that need a judge.")
    ] = None,
    judge_name: Annotated[
        str, typer.Option("--judge", help="Name of the judge that gave the replies of --replies.")
    ] = "imported",
    key_from: Annotated[str, typer.Option(help="Environment variable that holds the endpoint's key.")] = KEY,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a reply.")] = 120.0,
) -> None:
    """Have the answers of a run judged by a model that you name, or import replies; nothing else is sent anywhere.

    Example: mmhall judge runs/first --endpoint http://localhost:8000/v1 --model my-judge
    """
    from mmhall.benchmarks.run import judge as judging
    from mmhall.benchmarks.run.runs import reopen
    from mmhall.errors import OptionError

    sources = {"replies": replies, "requests": requests, "endpoint": endpoint}
    chosen = [name for name, value in sources.items() if value is not None]
    if len(chosen) != 1:
        raise OptionError("judge", "source", " and ".join(chosen) or None, "one of --endpoint, --replies or --requests")
    if (endpoint is None) != (model is None):
        raise OptionError("judge", "model", model, "given together with --endpoint")
    if not 0 < timeout < float("inf"):
        raise OptionError("judge", "timeout", timeout, "a number > 0")
    opened = reopen(run)
    part = judging.part_to_judge(opened, benchmark)
    if replies is not None:
        _print_outcome(judging.import_judgements(opened, part, replies, judge_name))
        return
    text = judging.template_of(part.benchmark, template)
    if requests is not None:
        prompts = list(judging.requests(opened, part, text))
        judging.write_requests(prompts, requests)
        typer.echo(
            f"wrote {len(prompts)} prompts to {requests}; add a reply to each line and give it to --replies", err=True
        )
    elif endpoint is not None and model is not None:
        _print_outcome(_ask(opened, part, text, (endpoint, model), key_from, timeout))


def _ask(run: Run, part: Part, template: str, judge: tuple[str, str], key_from: str, timeout: float) -> Outcome:
    import os

    from mmhall.benchmarks.run import judge as judging
    from mmhall.benchmarks.run.endpoint import Endpoint
    from mmhall.progress import progress

    server = Endpoint(*judge, key=os.environ.get(key_from, ""), timeout=timeout)
    total = sum(1 for _ in judging.requests(run, part, template))
    try:
        with progress(f"judging {part.benchmark.name}", total) as advance:
            return judging.judge(run, part, server, template, advance)
    except KeyboardInterrupt:
        typer.echo("mmhall: stopped; what was judged is kept, the same command goes on from there", err=True)
        raise typer.Exit(2) from None


def _print_outcome(outcome: Outcome) -> None:
    before = f", {outcome.judged_before} before" if outcome.judged_before else ""
    failed = f"; {outcome.failed} could not be: the same command asks again" if outcome.failed else ""
    typer.echo(f"{outcome.added} answers judged by {outcome.judge}{before}{failed}", err=True)
