"""Threads that mmhall starts; those of a web server in the same process come and go as they like."""

from __future__ import annotations

import threading


def own_threads() -> set[threading.Thread]:
    """Return those that are alive."""
    return {one for one in threading.enumerate() if one.name.startswith("mmhall ")}
