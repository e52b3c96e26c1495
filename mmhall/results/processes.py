"""Processes of this machine: whether a process is alive, and when it was started; without signalling it."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

_QUERY_INFORMATION = 0x1000  # PROCESS_QUERY_LIMITED_INFORMATION
_DENIED = 5  # ERROR_ACCESS_DENIED
_RUNNING = 259  # STILL_ACTIVE


def is_alive(number: int) -> bool:
    """Tell whether a process is alive; a process of another user counts as alive.

    Args:
        number: Its process id.
    """
    if sys.platform == "win32":  # there os.kill(number, 0) sends Ctrl-C
        return is_alive_on_windows(number, ctypes.WinDLL("kernel32", use_last_error=True), ctypes.get_last_error)
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_alive_on_windows(number: int, kernel: Any, last_error: Any) -> bool:
    """Tell whether a process is alive on Windows.

    Args:
        number: Its process id.
        kernel: Functions of kernel32.
        last_error: Returns the error code of the last call.
    """
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(_QUERY_INFORMATION, False, number)
    if not handle:
        return bool(last_error() == _DENIED)
    code = ctypes.c_ulong()
    try:
        queried = kernel.GetExitCodeProcess(ctypes.c_void_p(handle), ctypes.byref(code))
    finally:
        kernel.CloseHandle(ctypes.c_void_p(handle))
    return not queried or code.value == _RUNNING


def start_time(number: int) -> str:
    """Return the start time of a process in clock ticks of the system; "" if it is unknown."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
