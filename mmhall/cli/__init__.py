"""The command line: one module for each command; commands import heavy modules only when they run."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TextIO

import typer

from mmhall import __version__
from mmhall.cli import (
    bench,
    caption,
    choose,
    compare,
    demo,
    diagnose,
    doctor,
    explain,
    export,
    fit,
    generate,
    judge,
    listing,
    report,
    reproduce,
    scenes,
    score,
    show,
    speed,
    tune,
)
from mmhall.errors import MmhallError, MmhallWarning
from mmhall.text import printable

_INTERRUPTED = 130  # typer's exit code for Ctrl-C


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mmhall {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="mmhall",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Mitigate and measure hallucination of vision-language models at decoding time.",
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


app.command("generate")(generate.generate)
app.command("caption")(caption.caption)
app.command("choose")(choose.choose)
app.command("bench")(bench.bench)
app.command("run")(bench.run)
app.command("report")(report.report)
app.command("reproduce")(reproduce.reproduce)
app.command("compare")(compare.compare)
app.command("judge")(judge.judge)
app.command("export")(export.export)
app.command("score")(score.score)
app.command("speed")(speed.speed)
app.command("scenes")(scenes.scenes)
app.command("tune")(tune.tune)
app.command("fit")(fit.fit)
app.command("demo")(demo.demo)
app.command("diagnose")(diagnose.diagnose)
app.command("doctor")(doctor.doctor)
app.command("list")(listing.list_names)
app.command("show")(show.show)
app.command("explain")(explain.explain)


def main() -> None:
    """Run the command line; an error of mmhall prints one line on stderr and exits with 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # busy-waiting threads slow down other processes
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
        except (ImportError, AttributeError):  # other versions of transformers may lack names
            _check_transformers()
            raise
        except BrokenPipeError:
            sys.stdout = None  # type: ignore[assignment]  # the reader of the pipe has ended
        except OSError as error:
            where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
            _fail(f"{where}{error.strerror or error}; free some room, or give another path")


def _check_transformers() -> None:
    """Exit with the version that is required, if the installed transformers is unsupported."""
    from mmhall.errors import VersionError

    try:
        import mmhall._transformers  # noqa: F401 - the import checks the version
    except VersionError as error:
        _fail(str(error))


class _PrintableStream:
    """An output stream that shows control and bidirectional characters as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _plain_output() -> Iterator[None]:
    """Escape control characters on stdout, and print warnings of mmhall on one line."""
    stdout, show = sys.stdout, warnings.showwarning

    def show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, MmhallWarning):
            print(f"mmhall: {printable(str(message))}", file=sys.stderr)
        else:
            show(message, category, *where, **more)

    sys.stdout = _PrintableStream(stdout)  # type: ignore[assignment]
    warnings.showwarning = show_warning  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show
        if sys.stdout is not None:
            sys.stdout = stdout


def _fail(message: str) -> None:
    print(f"mmhall: {printable(message)}", file=sys.stderr)
    sys.exit(2)
