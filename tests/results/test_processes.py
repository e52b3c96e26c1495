"""Asking whether a process lives neither ends nor signals it, on any system."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from mmhall.results import leases, processes
from mmhall.results.processes import is_alive, is_alive_on_windows, start_time

DENIED, RUNNING = 5, 259


class Kernel:
    """What kernel32 does: the exit code of each process that may be opened."""

    def __init__(self, codes):
        self.codes, self.open = codes, []
        self.OpenProcess = type("Function", (), {"__call__": staticmethod(self.opened)})()

    def opened(self, access, inherit, number):
        assert (access, inherit) == (0x1000, False)  # to ask alone, neither to end nor to signal
        if number not in self.codes:
            return None
        self.open.append(number)
        return number

    def GetExitCodeProcess(self, handle, code):  # noqa: N802
        code._obj.value = self.codes[handle.value]
        return 1

    def CloseHandle(self, handle):  # noqa: N802
        self.open.remove(handle.value)


@pytest.mark.parametrize(("codes", "error", "alive"), [({7: RUNNING}, 0, True), ({7: 0}, 0, False), ({}, 87, False)])
def test_windows_is_asked_and_handles_are_given_back(codes, error, alive):
    kernel = Kernel(codes)
    assert is_alive_on_windows(7, kernel, lambda: error) is alive
    assert kernel.open == []


def test_a_process_of_somebody_else_lives_on_windows():
    assert is_alive_on_windows(7, Kernel({}), lambda: DENIED)


def test_a_process_lives_until_it_has_ended():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_alive(process.pid)
        assert start_time(process.pid) not in ("", start_time(os.getpid()))
        assert process.poll() is None
    assert process.returncode == 1  # of its own
    assert not is_alive(process.pid)
    assert start_time(process.pid) == ""


def test_where_the_start_cannot_be_told_a_lease_lasts_as_long_as_its_process(monkeypatch):
    host, number, _ = leases.process_name().rsplit("/", 2)
    monkeypatch.setattr(leases, "Path", lambda path: SimpleNamespace(exists=lambda: False))
    seen = []
    monkeypatch.setattr(processes, "is_alive", lambda one: seen.append(one) or one == int(number))
    assert leases.holds_lease(f"{host}/{number}/", time.time())
    assert not leases.holds_lease(f"{host}/1/", time.time())
    assert seen == [int(number), 1]
