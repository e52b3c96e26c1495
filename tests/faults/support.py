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


def refused(folder, *arguments):
    """Run a command in a folder that must end with code 2 and one line; return the line."""
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["mmhall", *map(os.fspath, arguments)])
        with contextlib.redirect_stderr(told), pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    (line,) = told.getvalue().splitlines()
    assert line.startswith("mmhall: ")
    return line
