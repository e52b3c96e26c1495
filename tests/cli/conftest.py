from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from mmhall.cli import main


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Run the command line in an empty folder, in this process: starting Python is most of a command's time."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mmhall", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(cli):
    """Run a command that must fail with one line and code 2; return the line."""

    def run(*arguments):
        done = cli(*arguments)
        assert done.returncode == 2, done
        assert "Traceback" not in done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("mmhall: ")]
        return line

    return run
