"""Runs pytest in forks of a process that has imported what tests need, but nothing of the tree under test.

Importing torch and transformers takes longer than most tests that notice a change. One JSON object a line comes in, of
a run's arguments, environment, output file and limit in seconds; its exit status goes out, null where time ran out.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

MEMORY = 24 * 2**30  # of data a run may hold: a change may make a loop that collects without end
HELD = "MUTANTS_HELD"  # names the file to which a run writes the modules that it has imported from elsewhere


def main() -> None:
    """Serve runs until the input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        code = _forked(asked)
        if held := asked["environment"].get(HELD):
            _import(Path(held))
        print(json.dumps(code), flush=True)


def _forked(asked: dict[str, Any]) -> int | None:
    """Run pytest in a fork; return its exit status, None where it ran out of time."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        _run(asked)
    until = time.monotonic() + asked["limit"]
    done, status = os.waitpid(child, os.WNOHANG)
    while not done and time.monotonic() < until:
        time.sleep(0.05)
        done, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # its workers too
    if not done:
        os.waitpid(child, 0)
        return None
    return os.waitstatus_to_exitcode(status)


def _run(asked: dict[str, Any]) -> None:
    """Be the fork: run pytest and end."""
    code = 3
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        output = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(asked["environment"])
        sys.dont_write_bytecode = bool(asked["environment"].get("PYTHONDONTWRITEBYTECODE"))
        code = int(pytest.main(asked["arguments"]))
        if held := asked["environment"].get(HELD):
            Path(held).write_text("\n".join(_from_elsewhere()))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _from_elsewhere() -> list[str]:
    """Name the imported modules that do not belong to the tree under test."""
    here = str(Path.cwd())
    files = {name: str(getattr(module, "__file__", None) or here) for name, module in list(sys.modules.items())}
    return [name for name, file in files.items() if not file.startswith(here)]


def _import(held: Path) -> None:
    """Import modules, those that can be, for the forks to come."""
    for name in held.read_text().splitlines() if held.exists() else []:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


if __name__ == "__main__":
    main()
