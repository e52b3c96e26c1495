"""The Probe tab: every strategy is asked about objects one by one, as in POPE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from mmhall.demo import limits
from mmhall.demo.board import Board
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
    """Build the tab and connect its events."""
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
    events = _ProbeEvents(app)
    suggest.click(suggest_objects, [board.present, board.shown], objects, **IN_ORDER)
    number = gr.Number(0, visible="hidden")
    ask.click(events.begin, None, number, **IN_ORDER).then(
        events.answer,
        [number, board.picture, objects, board.present, board.offered, board.count, *board.specs],
        [table, status],
        **on_model(status),
    )
    stop.click(events.leave, None, None, **UNQUEUED)


@dataclass(frozen=True, slots=True)
class _ProbeEvents:
    """Handlers of Ask and Stop."""

    app: AppState

    def begin(self, request: gr.Request) -> int:
        """Return the number of a new ticket of this visitor."""
        return self.app.begin(request.session_hash or "").number

    def leave(self, request: gr.Request) -> None:
        """Stop the probe of this visitor."""
        self.app.stop(request.session_hash or "")

    @show_errors
    def answer(
        self,
        request: gr.Request,
        number: Any,
        image: Any,
        names: Any,
        present: Any,
        offered: Any,
        count: Any,
        *specs: Any,
    ) -> Iterator[Any]:
        """Ask every strategy; yields the table and an empty status."""
        ticket = self.app.ticket(request.session_hash or "", number)
        if ticket is None:
            yield gr.skip(), gr.skip()
            return
        if image is None:
            raise ImageError("there is no picture yet; choose a scene or upload one on the Compare tab")
        self.app.wait_for_model()
        objects = limits.objects(names)
        methods = limits.strategies(list(specs[:count]), self.app.owner_specs)
        truth = ground_truth(present, offered)
        with self.app.exclusive_model() as lvlm:
            for table in probe(lvlm, image, objects, methods, **truth, should_stop=lambda: ticket.stopping):
                yield probe_html(table), ""


def suggest_objects(present: Any, shown: Any) -> str:
    """Suggest objects to ask about, separated by commas."""
    return ", ".join(default_objects(tuple(present or ()) or None, _objects_in_answers(shown) if shown else ()))


def _objects_in_answers(shown: Shown) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for column in shown.columns for name in named_objects(column.text)))
