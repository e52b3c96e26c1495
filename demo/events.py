"""How the page's events are declared: light ones run at once, those that need the model stand in one queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

UNQUEUED: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "queue": False,
    "trigger_mode": "always_last",
}
# Gradio's page shows no error and no note of an event that is not queued; this queue has no end and no one waits in it.
QUEUED: dict[str, Any] = {**UNQUEUED, "queue": True, "concurrency_limit": None}
# What Run reads is in place before Run is heard: all of these are done, in the order in which they were asked for.
IN_ORDER: dict[str, Any] = {**QUEUED, "concurrency_id": "order", "concurrency_limit": 1, "trigger_mode": "multiple"}
PAGE_QUEUE: dict[str, Any] = {
    **QUEUED,
    "concurrency_id": "page",
    "concurrency_limit": 2,
}  # takes a while without the model
MODEL_QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "trigger_mode": "multiple"}
_STATIC = Path(__file__).parent / "static"


def on_model(status: Any) -> dict[str, Any]:
    """Declare an event of the page that needs the model; its place in the queue is shown in `status`."""
    return {**MODEL_QUEUE, "api_visibility": "private", **show_waiting(status)}


def show_waiting(status: Any) -> dict[str, Any]:
    """Have an event show in `status` that it is on its way, and for how long it has been."""
    return {"show_progress": "minimal", "show_progress_on": status}


def script(name: str) -> str:
    """Return one of the page's scripts."""
    return (_STATIC / name).read_text(encoding="utf-8")
