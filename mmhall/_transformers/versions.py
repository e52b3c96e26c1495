"""Versions of transformers that were tested; `pyproject.toml` has the same bounds."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version

from mmhall.errors import VersionError

OLDEST, NEWEST, UNTESTED = "5.17.0", "5.24.0", "5.25"  # `python -m tests.compat` runs OLDEST and NEWEST
SKIP_CHECK = "MMHALL_ANY_TRANSFORMERS"  # environment variable: set it to use any version


def check_version() -> None:
    """Check that the installed version of transformers was tested.

    Raises:
        VersionError: transformers is older than OLDEST, at least UNTESTED, or not installed.
    """
    if os.environ.get(SKIP_CHECK):
        return
    needed = f"mmhall needs transformers >= {OLDEST}, < {UNTESTED}"
    remedy = f'pip install "transformers>={OLDEST},<{UNTESTED}"'
    try:
        installed = version("transformers")
    except PackageNotFoundError:
        raise VersionError(f"{needed}, but it is not installed; install it: {remedy}") from None
    if not parse_release(OLDEST) <= parse_release(installed) < parse_release(UNTESTED):
        raise VersionError(f"{needed}, found {installed}; install a tested version: {remedy}")


def parse_release(version: str) -> list[int]:
    """Return the release numbers of a version; "5.25.0.dev0" counts as 5.25.0."""
    return [int(part) for part in re.match(r"[\d.]*\d", version)[0].split(".")]  # type: ignore[index]
