"""Write `constraints.txt`: `python -m tests.compat.freeze > constraints.txt`, in the environment that was tested.

Exact versions of all that `make test` installs. Not those of torch and torchvision: machines differ in what they can
run, so a tested range stands in their place, and what only comes with them is left to them.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distributions

from packaging.specifiers import SpecifierSet

RANGES = {"torch": ">=2.8,<2.16", "torchvision": ">=0.23,<0.31"}
OF_TORCH = re.compile(r"nvidia-|cuda-|triton$")
OURS = {"mmhall", "pip", "setuptools", "wheel"}
OLDEST_PYTHON = "3.10.0"


def line(found: Distribution) -> tuple[str, str]:
    """Return a package's name and its constraint; a version that the oldest Python lacks is not asked of it."""
    name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
    needs = found.metadata.get("Requires-Python")
    newer = needs is not None and OLDEST_PYTHON not in SpecifierSet(needs)
    return name, f"{name}=={found.version}" + (' ; python_version >= "3.11"' if newer else "")


def main() -> None:
    """Print the constraints."""
    print("# The versions that the published figures were made with; `make bench` and `make test` install them.")
    print("# Made by `python -m tests.compat.freeze`. torch and torchvision: the range that was tested.")
    lines = dict(map(line, distributions()))
    kept = {name: text for name, text in lines.items() if name not in OURS and not OF_TORCH.match(name)}
    print(*sorted([*kept.values(), *(name + versions for name, versions in RANGES.items())]), sep="\n")


if __name__ == "__main__":
    main()
