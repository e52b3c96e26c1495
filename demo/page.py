"""The page: a heading, three tabs, and the endpoints for programs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from mmhall.demo.api import endpoints
from mmhall.demo.compare_tab import compare_tab
from mmhall.demo.probe_tab import probe_tab
from mmhall.demo.rendering import render
from mmhall.demo.runs_tab import runs_tab
from mmhall.demo.state import AppState
from mmhall.demo.waiting import loading_failed, when_loaded
from mmhall.demo.wire import guard_events

if TYPE_CHECKING:
    from mmhall.lvlm import LVLM

_TITLE = """# mmhall
See where each decoding strategy looks, and what it makes up."""


def page(
    model: Future[LVLM],
    *,
    runs: Path = Path("runs"),
    owner_specs: Sequence[str] = (),
    delete_cache: tuple[int, int] | None = None,
) -> gr.Blocks:
    """Build the page.

    Args:
        model: The model, loaded or being loaded.
        runs: Folder with the runs to show.
        owner_specs: Strategies to offer that name files or models.
        delete_cache: Interval between checks of the uploads, and the age at which they are deleted, in seconds.
    """
    app = AppState(model, runs, tuple(owner_specs))

    def leave(request: gr.Request) -> None:
        app.forget(request.session_hash or "")

    def describe_model() -> list[str]:
        return [render("model.html", lvlm=None if loading_failed(app) else app.lvlm, failed=loading_failed(app))]

    blocks: gr.Blocks
    with gr.Blocks(title="mmhall", analytics_enabled=False, delete_cache=delete_cache) as blocks:
        gr.Markdown(_TITLE, elem_id="title")
        model_line = gr.HTML(render("model.html", lvlm=None, failed=False), elem_id="model")
        with gr.Tabs() as tabs:
            with gr.Tab("Compare", id="compare"):
                board = compare_tab(app, blocks)
            with gr.Tab("Probe", id="probe"):
                probe_tab(app, board)
            with gr.Tab("Runs", id="runs"):
                runs_tab(app, board, blocks, tabs)
        endpoints(app)
        blocks.unload(leave)
        when_loaded(app, blocks, describe_model, [], [model_line])
    return guard_events(blocks)
