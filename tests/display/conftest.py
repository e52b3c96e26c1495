"""A scene to look at."""

from __future__ import annotations

import pytest

from mmhall.benchmarks.scenes import make_scene


@pytest.fixture(scope="session")
def scene():
    """The fifth of the page's scenes."""
    return make_scene(2026, 4)
