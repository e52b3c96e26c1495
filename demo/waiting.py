"""What waits for the model: no event does, as each would hold one of the few threads; the page asks again instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from mmhall.demo.events import UNQUEUED
from mmhall.demo.state import AppState
from mmhall.errors import ModelError

if TYPE_CHECKING:
    from mmhall.lvlm import LVLM

_EVERY = 1.0  # seconds


def ready(app: AppState) -> LVLM:
    """Return the model, at once. Before it is there, no module may be imported that brings torch: its thread does so.

    Raises:
        ModelError: It is being loaded, or could not be.
    """
    if not app.model.done():
        raise ModelError("the model is still being loaded; try again in a moment")
    if failed(app):
        raise ModelError("the model could not be loaded; the terminal of the page says why")
    return app.lvlm


def failed(app: AppState) -> bool:
    """Whether the model could not be loaded."""
    return app.model.done() and app.model.exception() is not None


def when_loaded(
    app: AppState, blocks: gr.Blocks, show: Callable[..., Sequence[Any]], inputs: Sequence[Any], outputs: Sequence[Any]
) -> None:
    """Fill parts of a page when it is opened, or once loading the model has ended, well or not.

    Args:
        desk: Of the page.
        blocks: The page.
        show: Takes the values of `inputs`, returns those of `outputs`; quick.
        inputs: What it reads.
        outputs: What it fills.
    """
    timer = gr.Timer(_EVERY, active=False)

    def wake(*values: Any) -> list[Any]:
        if not app.model.done():
            return [gr.Timer(active=True), *[gr.skip()] * len(outputs)]
        return [gr.Timer(active=False), *show(*values)]

    for event in (blocks.load, timer.tick):
        event(wake, list(inputs), [timer, *outputs], **UNQUEUED)
