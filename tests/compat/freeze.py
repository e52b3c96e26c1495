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
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")  # from the oldest that mmhall allows


def line(found: Distribution) -> tuple[str, str]:
    """Return a package's name and its constraint; a Python that the version does not run on is left alone."""
    name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
    runs = SpecifierSet(found.metadata.get("Requires-Python") or "")
    first = next(python for python in PYTHONS if f"{python}.9" in runs)
    return name, f"{name}=={found.version}" + (f' ; python_version >= "{first}"' if first != PYTHONS[0] else "")


def main() -> None:
    """Print the constraints."""
    print("# The versions that the published figures were made with; `make bench` and `make test` install them.")
    print("# Made by `python -m tests.compat.freeze`. torch and torchvision: the range that was tested.")
    lines = dict(map(line, distributions()))
    kept = {name: text for name, text in lines.items() if name not in OURS and not OF_TORCH.match(name)}
    kept |= {name: name + versions for name, versions in RANGES.items()}
    print(*(kept[name] for name in sorted(kept)), sep="\n")


if __name__ == "__main__":
    main()
