"""Queues of the page's events: short events run at once, events that need the model share one queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

UNQUEUED: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "queue": False,
    "trigger_mode": "always_last",
}
# Gradio shows errors and notes of queued events only; in this queue no event waits.
QUEUED: dict[str, Any] = {**UNQUEUED, "queue": True, "concurrency_limit": None}
# Run reads fields that these events set: all of them are done, one after the other, before Run starts.
IN_ORDER: dict[str, Any] = {**QUEUED, "concurrency_id": "order", "concurrency_limit": 1, "trigger_mode": "multiple"}
# Slow events without the model.
PAGE_QUEUE: dict[str, Any] = {**QUEUED, "concurrency_id": "page", "concurrency_limit": 2}
MODEL_QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "trigger_mode": "multiple"}
_STATIC = Path(__file__).parent / "static"


def on_model(status: Any) -> dict[str, Any]:
    """Return the settings of an event that needs the model; `status` shows its place in the queue."""
    return {**MODEL_QUEUE, "api_visibility": "private", **show_waiting(status)}


def show_waiting(status: Any) -> dict[str, Any]:
    """Return the settings of an event that shows in `status` that it runs, and for how long."""
    return {"show_progress": "minimal", "show_progress_on": status}


def script(name: str) -> str:
    """Return the text of one of the page's scripts."""
    return (_STATIC / name).read_text(encoding="utf-8")
