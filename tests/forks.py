"""Work in a fork of this process: a process of its own that need not load libraries and models again."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from mmhall.cli import main


def forked(work: Callable[[], int]) -> int:
    """Start work, whose result is the exit code; return the process's id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons tell of threads, which no child uses
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Wait for the end; return the exit code, or the signal it died of, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class ForkedProgram:
    """A `subprocess.Popen` of a program that this process has imported: a fork that runs its `main`.

    Attributes:
        pid: The process's id.
        returncode: As Popen's; None while it runs.
    """

    def __init__(self, main: Callable[[], None], command: Sequence[str], env: dict[str, str], log: IO[bytes]) -> None:
        """Start it; its standard input is a pipe that closes with this process, its output goes to a log."""
        self.returncode: int | None = None
        reading, self._stdin = os.pipe()

        def work() -> int:
            os.close(self._stdin)
            for number, file in ((reading, 0), (log.fileno(), 1), (log.fileno(), 2)):
                os.dup2(number, file)
            sys.argv, sys.stdin, sys.stdout, sys.stderr = list(command), *map(os.fdopen, range(3), "rww")
            os.environ.clear()
            os.environ.update(env)
            try:
                main()
            except SystemExit as end:
                sys.stderr.flush()
                return end.code if isinstance(end.code, int) else 0
            return 0

        self.pid = forked(work)
        os.close(reading)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = ended(self.pid)
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def __enter__(self) -> ForkedProgram:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stdin)
        self.wait()


def interrupted(arguments, folder, at, number):
    """Start a command in a fork, signal it once a line of stderr starts with `at`; return its code and stderr."""
    reading, writing = os.pipe()
    arguments = ["mmhall", *map(str, arguments)]

    def command():
        os.close(reading)
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.simplefilter("default")
        with Path(os.devnull).open("w") as nothing, os.fdopen(writing, "w", buffering=1) as said:
            sys.argv, sys.stdout, sys.stderr = arguments, nothing, said
            try:
                main()
            except SystemExit as end:
                return end.code or 0
            return 0

    pid, lines = forked(command), []
    os.close(writing)
    with os.fdopen(reading) as said:
        for line in said:
            lines.append(line)
            if sum(one.startswith(at) for one in lines) == 1 and line.startswith(at):
                os.kill(pid, number)
    return ended(pid), "".join(lines)
