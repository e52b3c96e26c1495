"""The command line: one file per subcommand, heavy imports inside the commands."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer

from mmhall.cli import (
    bench,
    choose,
    compare,
    demo,
    explain,
    export,
    fit,
    generate,
    judge,
    listing,
    report,
    scenes,
    score,
    show,
    tune,
)
from mmhall.errors import MmhallError, MmhallWarning
from mmhall.text import printable

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
app.command("fit")(fit.fit)
app.command("demo")(demo.demo)
app.command("list")(listing.list_names)
app.command("show")(show.show)
app.command("explain")(explain.explain)


def main() -> None:
    """Run the command line; errors are one line on stderr and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve whatever else runs here
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with _plain_output():
        try:
            app()
        except SystemExit as end:
            if end.code == _INTERRUPTED:
                _fail("stopped")
            raise
        except MmhallError as error:
            _fail(str(error))
        except (ImportError, AttributeError):  # another transformers may lack names
            _check_transformers()
            raise
        except BrokenPipeError:
            sys.stdout = None  # type: ignore[assignment]  # whoever read our output has left
        except OSError as error:
            where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
            _fail(f"{where}{error.strerror or error}; free some room, or give another path")


def _check_transformers() -> None:
    """End with the version that is needed, where that is the reason why something failed."""
    from mmhall.errors import VersionError

    try:
        import mmhall._transformers  # noqa: F401 - it checks
    except VersionError as error:
        _fail(str(error))


class _Printable:
    """An output stream that writes out what in a text would steer a terminal or hide what stands beside it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _plain_output() -> Iterator[None]:
    """Print texts of models and files with control characters written out, and our warnings on one line."""
    stdout, show = sys.stdout, warnings.showwarning

    def told(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, MmhallWarning):
            print(f"mmhall: {printable(str(message))}", file=sys.stderr)
        else:
            show(message, category, *where, **more)

    sys.stdout = _Printable(stdout)  # type: ignore[assignment]
    warnings.showwarning = told  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show
        if sys.stdout is not None:
            sys.stdout = stdout


def _fail(message: str) -> None:
    print(f"mmhall: {printable(message)}", file=sys.stderr)
    sys.exit(2)
