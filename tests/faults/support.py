"""What the rows of all files need."""

from __future__ import annotations

import pytest


def refuses(kind, told, work, *arguments):
    with pytest.raises(kind, match=told):
        work(*arguments)
