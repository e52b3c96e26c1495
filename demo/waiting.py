"""Waiting for the model: the page asks again, since an event that waits would occupy one of few threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from mmhall.demo.events import UNQUEUED
from mmhall.demo.state import AppState
from mmhall.errors import ModelError

if TYPE_CHECKING:
    from mmhall.lvlm import LVLM

_INTERVAL = 1.0  # seconds


def require_model(app: AppState) -> LVLM:
    """Return the model at once.

    Until it is loaded, only the loading thread may import modules that import torch.

    Raises:
        ModelError: It is being loaded, or loading failed.
    """
    if not app.model.done():
        raise ModelError("the model is still being loaded; try again in a moment")
    if loading_failed(app):
        raise ModelError("the model could not be loaded; the terminal of the page says why")
    return app.lvlm


def loading_failed(app: AppState) -> bool:
    """Return whether loading the model has failed."""
    return app.model.done() and app.model.exception() is not None


def when_loaded(
    app: AppState, blocks: gr.Blocks, fill: Callable[..., Sequence[Any]], inputs: Sequence[Any], outputs: Sequence[Any]
) -> None:
    """Fill components when the page is opened, or as soon as loading the model has succeeded or failed.

    Args:
        app: Application state.
        blocks: The page.
        fill: Takes the values of `inputs` and returns those of `outputs`; must be fast.
        inputs: Components to read.
        outputs: Components to fill.
    """
    timer = gr.Timer(_INTERVAL, active=False)

    def wake(*values: Any) -> list[Any]:
        if not app.model.done():
            return [gr.Timer(active=True), *[gr.skip()] * len(outputs)]
        return [gr.Timer(active=False), *fill(*values)]

    for event in (blocks.load, timer.tick):
        event(wake, list(inputs), [timer, *outputs], **UNQUEUED)
