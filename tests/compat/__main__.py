"""`make compat`: the quick tests on other versions of transformers, and whether the embedded model says the same there.

The tests are not run on the version that is installed: `make test` runs them.

python -m tests.compat                  the oldest and the newest version that mmhall allows
python -m tests.compat 5.25.0           another one, beside the newest; if all is well it is allowed from then on
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmhall._transformers import versions
from tests.compat.overlay import ROOT, python_with

LEFT_OUT = ("benchmarks", "cli", "demo", "faults", "lmms_eval", "mutants", "results")
"""Folders whose tests enter nothing of transformers' that the others do not."""
FAMILIES = ("tests/_transformers/test_internals.py", "tests/generation/test_families.py")  # these on every family
CLOSE = 1e-4


def main(asked: list[str]) -> int:
    """Test versions; return the exit status."""
    wanted = asked if len(asked) > 1 else [*asked, versions.NEWEST] if asked else [versions.OLDEST, versions.NEWEST]
    folder = ROOT / "build" / "compat"
    folder.mkdir(parents=True, exist_ok=True)
    failed = [version for version in wanted if not passes(version, folder / f"{version}.json")]
    if failed:
        return 1
    told = [json.loads((folder / f"{version}.json").read_text()) for version in wanted]
    later = zip(wanted[1:], told[1:], strict=True)
    unlike = [f"{version}: {place}" for version, other in later for place in unequal(told[0], other)]
    print(*unlike[:20], sep="\n", end="\n" * bool(unlike))
    print(f"== {len(list(leaves(told[0])))} answers of the embedded model: {len(unlike) or 'none'} differ")
    if not unlike:
        allow(max(wanted, key=versions.parse_release))
    return int(bool(unlike))


def passes(version: str, answers: Path) -> bool:
    """Run the tests on a version, and write what the embedded model says there."""
    began, python = time.time(), python_with(version)
    installed = python == sys.executable
    print(f"== {'answers' if installed else 'the quick tests'} on transformers {version}", flush=True)
    tests = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"]
    quick = [*tests, "-m", "not slow", *(f"--ignore=tests/{name}" for name in LEFT_OUT)]
    every_family = [*tests, "--families=all", "-m", "slow", *FAMILIES]
    steps = [[python, "-m", "tests.compat.answers", str(answers)]]
    if not installed:
        steps = [quick, every_family, *steps]
    environment = {**os.environ, versions.SKIP_CHECK: "1"}
    passed = all(subprocess.run(step, cwd=ROOT, env=environment).returncode == 0 for step in steps)
    print(f"== transformers {version}: {'passed' if passed else 'FAILED'}, {time.time() - began:.0f} s", flush=True)
    return passed


def leaves(told: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Return each answer and where it stands."""
    if "tokens" in told:
        yield place, told
    else:
        for name, inner in told.items():
            yield from leaves(inner, f"{place} {name}".strip())


def unequal(one: Any, other: Any) -> list[str]:
    """Return where two versions say something else: other tokens, or figures that are not close."""
    here, there = dict(leaves(one)), dict(leaves(other))
    alone = sorted(here.keys() ^ there.keys())
    return alone + [place for place in here.keys() & there.keys() if not alike(here[place], there[place])]


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers are the same tokens, with figures that are close."""
    pairs = list(zip(one["figures"], other["figures"], strict=False))
    return (
        one["tokens"] == other["tokens"]
        and len(one["figures"]) == len(other["figures"])
        and all(math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE) for a, b in pairs)
    )


def allow(version: str) -> None:
    """Allow and pin a version that was beyond what mmhall allowed."""
    if versions.parse_release(version) < versions.parse_release(versions.UNTESTED):
        return
    major, minor, *_ = versions.parse_release(version)
    beyond = f"{major}.{minor + 1}"
    for name, pattern, raised in (
        ("pyproject.toml", r'"transformers>=([\d.]+),<[\d.]+"', rf'"transformers>=\1,<{beyond}"'),
        ("constraints.txt", r"transformers==[\d.]+", f"transformers=={version}"),
        ("mmhall/_transformers/versions.py", r'"([\d.]+)", "[\d.]+", "[\d.]+"', rf'"\1", "{version}", "{beyond}"'),
    ):
        path = ROOT / name
        path.write_text(re.sub(pattern, raised, path.read_text(), count=1))
    print(f"== transformers {version} is allowed and pinned now: see `git diff`, and make the figures anew with it")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
