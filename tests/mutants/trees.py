"""A copy of the tree, in which a change is made, tested and undone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutants.operators import Mutation
from tests.mutants.record import CHOSEN, RECORD
from tests.mutants.server import HELD

ROOT = Path(__file__).resolve().parent.parent.parent
LANES = ("not slow", "slow")
PATIENCE, AT_LEAST = 10, 90  # times what the tests take without a change; seconds
NONE_COLLECTED = 5


@dataclass(frozen=True)
class Case:
    """A test: its node id and file, how long it takes without a change (seconds), and the functions it enters then."""

    name: str
    file: str
    seconds: float
    enters: frozenset[str]


@dataclass(frozen=True)
class Outcome:
    """What became of a change.

    Attributes:
        verdict: "killed", "survived" or "timed out" (which counts as killed).
        by: The test that failed first, where one did.
        seconds: How long it took.
    """

    verdict: str
    by: str
    seconds: float


class Tree:
    """A copy of the tree, in a folder that its maker throws away, and a process that runs tests in it."""

    def __init__(self, folder: Path) -> None:
        """Copy what git tracks or would track."""
        self.root = folder / "tree"
        self._output, self._listed, self._record = folder / "output", folder / "listed", folder / "record.json"
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0"):
            if name and (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        self._warm = False  # whether the process has imported what tests import
        self._environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}
        told = "import mmhall, mmhall.decoders as d; print(mmhall.__file__, d.__file__, sep='\\n')"
        command = [sys.executable, "-c", told]
        found = subprocess.check_output(command, cwd=self.root, env=self._environment, text=True)
        if not all(Path(line).resolve().is_relative_to(self.root.resolve()) for line in found.split()):
            raise SystemExit(f"the copy in {folder} imports mmhall from elsewhere: {found}")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.server"],
            cwd=self.root,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process."""
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()

    def recorded(self, files: tuple[str, ...], lane: str) -> list[Case]:
        """Run test files without a change, or take what an earlier run on the same tree wrote down."""
        kept = ROOT / "build" / "mutants" / f"{lane.replace(' ', '-')}-{self._state()}"
        kept.mkdir(parents=True, exist_ok=True)
        places = {file: kept / f"{_digest(file, (ROOT / file).read_text())}.json" for file in files}
        missing = [file for file, place in places.items() if not place.exists()]
        if missing:
            began = time.time()
            told = self._written_down(missing, lane)
            for file in missing:
                tests = {name: test for name, test in told["tests"].items() if name.split("::")[0] == file}
                numbers = sorted({number for _, entered in tests.values() for number in entered})
                functions = {number: told["functions"][number] for number in numbers}
                named = {name: [spent, [functions[n] for n in entered]] for name, (spent, entered) in tests.items()}
                places[file].write_text(json.dumps(named))
            print(f"== {len(missing)} test files, {lane}, without a change: {time.time() - began:.0f} s", flush=True)
        return [
            Case(name, file, seconds, frozenset(entered))
            for file, place in places.items()
            for name, (seconds, entered) in json.loads(place.read_text()).items()
        ]

    def test(self, mutation: Mutation, tests: list[Case], lane: str) -> Outcome:
        """Make a change, run its tests until one fails, and undo it."""
        began, path = time.time(), self.root / mutation.file
        self._listed.write_text("\n".join(test.name for test in tests))
        files = list(dict.fromkeys(test.file for test in tests))
        limit = AT_LEAST + PATIENCE * sum(test.seconds for test in tests)
        chosen = {CHOSEN: str(self._listed), "PYTHONDONTWRITEBYTECODE": "1"}  # no bytecode of changed modules
        path.write_text(mutation.mutated)
        try:
            code = self._pytest([*files, "-x", "--tb=no"], lane, limit, chosen)
        finally:
            path.write_text(mutation.source)
        spent = time.time() - began
        if code is None:
            return Outcome("timed out", "", spent)
        if code in (0, NONE_COLLECTED):
            return Outcome("survived", "", spent)
        told = self._output.read_text(errors="replace").splitlines()
        failed = [line.split(" ", 1)[1].split(" - ")[0] for line in told if line.startswith(("FAILED", "ERROR"))]
        return Outcome("killed", failed[0] if failed else f"exit status {code}", spent)

    def _written_down(self, files: list[str], lane: str) -> dict[str, Any]:
        """Run test files with the recorder; those of their tests that fail are left out."""
        if not self._warm:
            self._pytest([*files, "--collect-only"], lane, 900, {HELD: str(self._listed)})
            self._warm = True
        code = self._pytest(files, lane, 7200, {RECORD: str(self._record), HELD: str(self._listed)})
        if code is None or not self._record.exists():
            raise SystemExit(f"the tests do not run without a change:\n{self._output.read_text()[-3000:]}")
        told: dict[str, Any] = json.loads(self._record.read_text())
        self._record.unlink()
        for name in told["failed"]:
            print(f"== fails without a change, left out: {name}", flush=True)
        return told

    def _pytest(self, arguments: list[str], lane: str, limit: float, environment: dict[str, str]) -> int | None:
        """Run pytest on the copy; return its exit status, None where it ran out of time."""
        plugins = ["-p", "no:cacheprovider", "-p", "tests.mutants.record", "--hypothesis-seed=0"]
        ignored = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that the server has imported
        asked = {
            "arguments": ["-q", "-m", lane, *plugins, *ignored, *arguments],
            "environment": environment,
            "output": str(self._output),
            "limit": limit,
        }
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(f"{json.dumps(asked)}\n")
        self._server.stdin.flush()
        code: int | None = json.loads(self._server.stdout.readline())
        return code

    def _state(self) -> str:
        """Return a digest of all code but that of test files and this package."""
        ours = Path(__file__).parent.name
        files = [path for path in sorted(self.root.rglob("*.py")) if path.parent.name != ours]
        kept = [path for path in files if not path.name.startswith("test_")]
        return _digest(*(f"{path.relative_to(self.root)}{path.read_text()}" for path in kept))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
