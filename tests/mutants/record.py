"""A pytest plugin: records which functions a test enters, or runs chosen tests only, in the order chosen.

Of the environment, MUTANTS_RECORD names the file to write, MUTANTS_CHOSEN one that lists node ids.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

RECORD, CHOSEN = "MUTANTS_RECORD", "MUTANTS_CHOSEN"


class Recorder:
    """Functions of the tree that each test enters, with what is set up for it, and how long it takes."""

    def __init__(self, root: Path, report: Path) -> None:
        self._root, self._report = f"{root}{os.sep}", report
        self._entered: set[CodeType] = set()
        self._failed: set[str] = set()
        self._functions: dict[str, int] = {}
        self._tests: dict[str, Any] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._entered.clear()
        began = time.perf_counter()
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            named = {name for code in list(self._entered) if (name := self._name(code))}
            numbers = sorted(self._functions.setdefault(name, len(self._functions)) for name in named)
            self._tests[item.nodeid] = [time.perf_counter() - began, numbers]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        kept = {name: told for name, told in self._tests.items() if name not in self._failed}
        told = {"functions": list(self._functions), "tests": kept, "failed": sorted(self._failed)}
        self._report.write_text(json.dumps(told))

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> None:
        self._entered.add(frame.f_code)

    def _name(self, code: CodeType) -> str:
        """Return a function's file and dotted name; empty for one from elsewhere."""
        if not code.co_filename.startswith(self._root):
            return ""
        file = Path(code.co_filename[len(self._root) :]).as_posix()
        return f"{file} {re.sub(r'[.]?<[^>]*>', '', code.co_qualname)}"


class Chosen:
    """Runs the tests that are listed, in the order of the list."""

    def __init__(self, names: list[str]) -> None:
        self._ranks = {name: rank for rank, name in enumerate(names)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self._ranks), key=lambda item: self._ranks[item.nodeid])


def pytest_configure(config: pytest.Config) -> None:
    """Do what the environment asks for."""
    if report := os.environ.get(RECORD):
        config.pluginmanager.register(Recorder(config.rootpath, Path(report)))
    if chosen := os.environ.get(CHOSEN):
        config.pluginmanager.register(Chosen(Path(chosen).read_text().splitlines()))
