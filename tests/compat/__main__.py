"""`make compat`: the quick tests on two versions of transformers, and whether the embedded model says the same on both.

python -m tests.compat                  the oldest and the newest version that mmhall allows
python -m tests.compat 5.17.0 5.25.0    these; one beyond what is allowed is tried, and allowed if all is well
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
from typing import Any

from mmhall._transformers import versions
from tests.compat.overlay import ROOT, python_with

TESTS = ("tests/_transformers", "tests/attention", "tests/generation", "tests/decoders", "tests/adapters")
CLOSE = 1e-4


def main(asked: list[str]) -> int:
    """Test versions; return the exit status."""
    wanted = asked or [versions.OLDEST, versions.NEWEST]
    environment = {**os.environ, versions.ANY: "1"}
    folder, failed = ROOT / "build" / "compat", []
    folder.mkdir(parents=True, exist_ok=True)
    for version in wanted:
        began, python = time.time(), python_with(version)
        print(f"== the quick tests on transformers {version}, about 3 minutes on two cores", flush=True)
        lane = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not slow", *TESTS]
        tested = subprocess.run(lane, cwd=ROOT, env=environment).returncode == 0
        written = [python, "-m", "tests.compat.answers", str(folder / f"{version}.json")]
        answered = subprocess.run(written, cwd=ROOT, env=environment).returncode == 0
        well = tested and answered
        failed += [] if well else [version]
        print(f"== transformers {version}: {'well' if well else 'NOT WELL'}, {time.time() - began:.0f} s")
    if failed:
        return 1
    told = [json.loads((folder / f"{version}.json").read_text()) for version in wanted]
    later = zip(wanted[1:], told[1:], strict=True)
    unlike = [f"{version}: {place}" for version, other in later for place in unequal(told[0], other)]
    print(*unlike[:20], sep="\n", end="\n" * bool(unlike))
    print(f"== {len(list(leaves(told[0])))} answers of the embedded model: {len(unlike) or 'none'} differ")
    if not unlike:
        raise_bounds(max(wanted, key=versions.numbers))
    return int(bool(unlike))


def leaves(told: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Return each answer and where it stands."""
    if "tokens" in told:
        yield place, told
    else:
        for name, inner in told.items():
            yield from leaves(inner, f"{place} {name}".strip())


def unequal(one: Any, other: Any) -> list[str]:
    """Return where two versions say something else: other tokens, or figures that are not close."""
    there = dict(leaves(other))
    return [
        place
        for place, said in leaves(one)
        if place not in there
        or said["tokens"] != there[place]["tokens"]
        or len(said["figures"]) != len(there[place]["figures"])
        or not all(
            math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE)
            for a, b in zip(said["figures"], there[place]["figures"], strict=True)
        )
    ]


def raise_bounds(version: str) -> None:
    """Allow a version that was beyond what mmhall allowed, wherever that is written."""
    if versions.numbers(version) < versions.numbers(versions.BEYOND):
        return
    major, minor, *_ = versions.numbers(version)
    beyond = f"{major}.{minor + 1}"
    for name, pattern, raised in (
        ("pyproject.toml", r'"transformers>=([\d.]+),<[\d.]+"', rf'"transformers>=\1,<{beyond}"'),
        ("constraints.txt", r"transformers==[\d.]+", f"transformers=={version}"),
        ("mmhall/_transformers/versions.py", r'"([\d.]+)", "[\d.]+", "[\d.]+"', rf'"\1", "{version}", "{beyond}"'),
    ):
        path = ROOT / name
        path.write_text(re.sub(pattern, raised, path.read_text(), count=1))
    print(f"== transformers {version} is allowed and pinned now; make the figures anew with it")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
