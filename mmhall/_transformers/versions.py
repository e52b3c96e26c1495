"""The versions of transformers that mmhall was tested with; `pyproject.toml` has the same bounds."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version

from mmhall.errors import VersionError

OLDEST, NEWEST, UNTESTED = "5.17.0", "5.24.0", "5.25"  # `python -m tests.compat` runs OLDEST and NEWEST
SKIP_CHECK = "MMHALL_ANY_TRANSFORMERS"  # set: any version is tried


def check_version() -> None:
    """Refuse a transformers that mmhall was not tested with.

    Raises:
        VersionError: It is older than OLDEST, as new as UNTESTED or newer, or not there.
    """
    if os.environ.get(SKIP_CHECK):
        return
    wanted = f"mmhall needs transformers >= {OLDEST}, < {UNTESTED}"
    remedy = f'pip install "transformers>={OLDEST},<{UNTESTED}"'
    try:
        found = version("transformers")
    except PackageNotFoundError:
        raise VersionError(f"{wanted}, and there is none; install it: {remedy}") from None
    if not numbers(OLDEST) <= numbers(found) < numbers(UNTESTED):
        raise VersionError(f"{wanted}, found {found}; install a tested one: {remedy}")


def numbers(version: str) -> list[int]:
    """Return the release numbers of a version: "5.25.0.dev0" is as untested as 5.25.0."""
    return [int(part) for part in re.match(r"[\d.]*\d", version)[0].split(".")]  # type: ignore[index]
