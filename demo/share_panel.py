"""The panel below the heat maps: export a comparison as set-up, code, table or picture, and load a set-up."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from mmhall.demo.events import IN_ORDER, PAGE_QUEUE, QUEUED
from mmhall.demo.guard import show_errors
from mmhall.demo.loading import loading_outputs, loading_values
from mmhall.demo.poster import poster
from mmhall.demo.rendering import notice, render
from mmhall.demo.scenes import SEED, bundled_scenes
from mmhall.demo.setups import Setup, ground_truth
from mmhall.demo.share import Picture, as_json, command_line, csv_text, from_json, python_code
from mmhall.demo.state import AppState, Shown, scene_number
from mmhall.demo.waiting import require_model
from mmhall.text import printable

if TYPE_CHECKING:
    from mmhall.demo.board import Board

_HINT = notice("Nothing to share yet", "Run a comparison first.")
_DRAWING = notice("Being drawn", "The picture and the table of this comparison are on their way.")


def panel(app: AppState, board: Board) -> None:
    """Build the panel and connect its events."""
    opened = gr.State(False)
    with gr.Accordion("Share and reproduce", open=False, elem_id="share") as fold:
        downloads = gr.HTML(_HINT, elem_id="downloads")
        with gr.Tabs():
            with gr.Tab("Set-up"):
                text = gr.Code("", language="json", label="Copy it, or paste one and load it", elem_id="setup", lines=8)
                load = gr.Button("Load this set-up", elem_id="load")
            with gr.Tab("Python"):
                python = gr.Code(
                    "", language="python", label="Gives the same answers", elem_id="python", interactive=False
                )
            with gr.Tab("Command line"):
                shell = gr.Code(
                    "", language="shell", label="Gives the same answers", elem_id="shell", interactive=False
                )
    events, inputs = _ShareEvents(app, board), [board.shown, board.present, board.offered]
    for change in (board.shown.change, board.ticked.then):
        change(events.write, inputs, [text, python, shell], **QUEUED)
    for change in (board.shown.change, board.ticked.then, opened.change):
        change(events.draw, [*inputs, opened], downloads, **PAGE_QUEUE)
    fold.expand(lambda: True, None, opened, **QUEUED)
    fold.collapse(lambda: False, None, opened, **QUEUED)
    load.click(events.take, text, [board.picture, *loading_outputs(board)], **IN_ORDER)


@dataclass(frozen=True, slots=True)
class _ShareEvents:
    """Handlers that export the comparison and load a set-up."""

    app: AppState
    board: Board

    @show_errors
    def write(self, shown: Shown | None, present: Any, offered: Any) -> tuple[Any, ...]:
        """Return the set-up, the Python code and the commands of the comparison."""
        if shown is None:
            return gr.skip(), "", ""  # keeps a set-up that was just pasted
        lvlm, picture = self.app.lvlm, identify_picture(shown)
        setup = _current_setup(shown, present, offered)
        fitted = tuple(column.strategy if column.answer is None else column.answer.strategy for column in shown.columns)
        repeatable = replace(setup, strategies=fitted)  # options tuned for the model are written out
        return (
            as_json(setup, lvlm.name, picture.label),
            python_code(repeatable, lvlm.name, picture, lvlm.loading),
            command_line(repeatable, lvlm.name, picture, lvlm.loading),
        )

    def draw(self, shown: Shown | None, present: Any, offered: Any, opened: bool) -> str:
        """Return the downloads of the comparison as HTML, drawn only while the panel is open."""
        if shown is None:
            return _HINT
        return _downloads_html(self.app, shown, _current_setup(shown, present, offered)) if opened else _DRAWING

    @show_errors
    def take(self, pasted: str) -> tuple[Any, ...]:
        """Return the picture and the fields of a pasted set-up."""
        loaded = from_json(pasted, require_model(self.app).name, self.app.owner_specs)
        if loaded.note:
            gr.Info(html.escape(printable(loaded.note)))
        scene = next((scene for scene in bundled_scenes() if _label(scene.index) == loaded.picture), None)
        values = loading_values(self.app, self.board, loaded.setup)
        if scene is not None:
            return scene.scene.image, *values
        for unchanged in (self.board.present, self.board.offered):
            values[self.board.setup_outputs.index(unchanged)] = gr.skip()
        gr.Info(html.escape(_missing_picture_note(loaded.picture)))
        return gr.skip(), *values


def _current_setup(shown: Shown, present: Any, offered: Any) -> Setup:
    """Return the set-up of a comparison with the objects that are ticked now."""
    truth = ground_truth(present, offered)
    present, absent = (None if truth[name] is None else tuple(truth[name]) for name in ("present", "absent"))
    return replace(shown.setup, present=present, absent=absent)


def identify_picture(shown: Shown) -> Picture:
    """Return label and file of a comparison's picture."""
    number = scene_number(shown.picture)
    if number is not None:
        return Picture(_label(number), f"scenes/{number + 1:06d}.png", (SEED, number))
    return Picture("a picture of one's own", "picture.png", None)


def _label(number: int) -> str:
    return f"scene {SEED}/{number}"


def _missing_picture_note(label: str) -> str:
    reason = f"This set-up was made with {label}, which is not here" if label else "This set-up names no picture"
    return f"{reason}: the picture and the objects in it stay as they are."


def _downloads_html(app: AppState, shown: Shown, setup: Setup) -> str:
    lvlm, png = app.lvlm, io.BytesIO()
    poster(shown.picture, setup, shown.columns, setup.present, lvlm.name, lvlm.adapter.tokenizer).save(png, "PNG")
    table = csv_text(setup, shown.columns, setup.present, lvlm.name).encode("utf-8-sig")
    return render("downloads.html", png=_data_url("image/png", png.getvalue()), csv=_data_url("text/csv", table))


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
