"""The command line: one file per subcommand, heavy imports inside the commands."""

from __future__ import annotations

import os
import sys

import typer

from mmhall.cli import bench, choose, compare, demo, export, generate, judge, listing, report, scenes, score, show, tune
from mmhall.errors import MmhallError

_INTERRUPTED = 130  # typer's exit code for Ctrl-C

app = typer.Typer(
    name="mmhall",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Mitigate and measure hallucination of vision-language models at decoding time.",
)
app.command("generate")(generate.generate)
app.command("choose")(choose.choose)
app.command("bench")(bench.bench)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("judge")(judge.judge)
app.command("export")(export.export)
app.command("score")(score.score)
app.command("scenes")(scenes.scenes)
app.command("tune")(tune.tune)
app.command("demo")(demo.demo)
app.command("list")(listing.list_names)
app.command("show")(show.show)


def main() -> None:
    """Run the command line; errors are one line on stderr and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve whatever else runs here
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _fail("stopped")
        raise
    except MmhallError as error:
        _fail(str(error))
    except BrokenPipeError:
        sys.stdout = None  # type: ignore[assignment]  # whoever read our output has left


def _fail(message: str) -> None:
    print(f"mmhall: {message}", file=sys.stderr)
    sys.exit(2)
