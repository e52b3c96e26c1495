"""The tab on which every strategy is asked for objects one by one, as POPE does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from mmhall.demo import limits
from mmhall.demo.compare_tab import Board
from mmhall.demo.events import IN_ORDER, UNQUEUED, on_model
from mmhall.demo.guard import show_errors
from mmhall.demo.probe import default_objects, probe, probe_html
from mmhall.demo.rendering import notice
from mmhall.demo.setups import ground_truth
from mmhall.demo.state import AppState, Shown
from mmhall.demo.words import named_objects
from mmhall.errors import ImageError

_HINT = notice("No answers yet", "Name some objects and press Ask: each strategy says whether they are in the picture.")


def probe_tab(app: AppState, board: Board) -> None:
    """Lay the tab out and wire it."""
    gr.Markdown("Ask every strategy of the Compare tab, about the picture there: *Is there a … in the image?*")
    objects = gr.Textbox(
        "", label="Objects", info=f"At most {limits.OBJECTS}, separated by commas.", lines=2, elem_id="objects"
    )
    with gr.Row():
        ask = gr.Button("Ask", variant="primary", elem_id="ask")
        stop = gr.Button("Stop", elem_id="probe-stop")
        suggest = gr.Button("Suggest objects", elem_id="suggest")
    status = gr.HTML("", elem_id="probe-status", min_height=8)
    table = gr.HTML(_HINT, elem_id="probe")

    def suggest_objects(present: Any, shown: Any) -> str:
        return ", ".join(default_objects(tuple(present or ()) or None, _said(shown) if shown else ()))

    def begin(request: gr.Request) -> int:
        return app.begin(request.session_hash or "").number

    def leave(request: gr.Request) -> None:
        app.stop(request.session_hash or "")

    @show_errors
    def answer(
        request: gr.Request, number: Any, image: Any, names: Any, present: Any, offered: Any, count: Any, *specs: Any
    ) -> Iterator[Any]:
        ticket = app.ticket(request.session_hash or "", number)
        if ticket is None:
            yield gr.skip(), gr.skip()
            return
        if image is None:
            raise ImageError("there is no picture yet; choose a scene or upload one on the Compare tab")
        app.wait()
        asked, methods = limits.objects(names), limits.strategies(list(specs[:count]), app.owner_specs)
        with app.exclusive_model() as lvlm:
            for found in probe(
                lvlm, image, asked, methods, **ground_truth(present, offered), should_stop=lambda: ticket.stopping
            ):
                yield probe_html(found), ""

    suggest.click(suggest_objects, [board.present, board.shown], objects, **IN_ORDER)
    number = gr.Number(0, visible="hidden")
    ask.click(begin, None, number, **IN_ORDER).then(
        answer,
        [number, board.picture, objects, board.present, board.offered, board.count, *board.specs],
        [table, status],
        **on_model(status),
    )
    stop.click(leave, None, None, **UNQUEUED)


def _said(shown: Shown) -> tuple[str, ...]:
    """Return the objects that the answers of a comparison name."""
    return tuple(dict.fromkeys(name for column in shown.columns for name in named_objects(column.text)))
