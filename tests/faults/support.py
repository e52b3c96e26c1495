"""What the rows of all files need: a refusal, a command, the embedded model."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from functools import cache

import pytest

import mmhall
from mmhall.cli import main


def refuses(kind, told, work, *arguments, **options):
    with pytest.raises(kind, match=told):
        work(*arguments, **options)


@cache
def embedded():
    return mmhall.load("embedded", device="cpu")


def command(*arguments, out=None):
    """Run the command line in this process; return its exit code and what it printed to stdout and stderr."""
    out, err, code = out or io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patched.setattr(sys, "argv", ["mmhall", *map(os.fspath, arguments)])
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue() if isinstance(out, io.StringIO) else None, err.getvalue()


def told_by(*arguments):
    """The one line in which a command is refused."""
    code, _, err = command(*arguments)
    assert code == 2, err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("mmhall: ")]
    return line


def refused(folder, *arguments):
    """Run a command in a folder that must end with code 2 and one line; return the line."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        code, _, err = command(*arguments)
    assert code == 2, err
    (line,) = err.splitlines()
    assert line.startswith("mmhall: ")
    return line
