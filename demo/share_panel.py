"""Below the gaze: take a comparison along, as a set-up, as code, as a table or as a picture, and load one."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from mmhall.demo.events import IN_ORDER, PAGE_QUEUE, QUEUED
from mmhall.demo.guard import show_errors
from mmhall.demo.loading import filled, filling
from mmhall.demo.poster import poster
from mmhall.demo.rendering import notice, render
from mmhall.demo.scenes import SEED, bundled_scenes
from mmhall.demo.setups import Setup, ground_truth
from mmhall.demo.share import Picture, as_json, command_line, csv_text, from_json, python_code
from mmhall.demo.state import AppState, Shown, scene_number
from mmhall.demo.waiting import ready
from mmhall.text import printable

if TYPE_CHECKING:
    from mmhall.demo.compare_tab import Board

_HINT = notice("Nothing to share yet", "Run a comparison first.")
_DRAWN = notice("Being drawn", "The picture and the table of this comparison are on their way.")


def panel(app: AppState, board: Board) -> None:
    """Lay the panel out and wire it."""
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

    @show_errors
    def tell(shown: Shown | None, present: Any, offered: Any) -> tuple[Any, ...]:
        if shown is None:
            return gr.skip(), "", ""  # a set-up that was just pasted stays
        lvlm, picture = app.lvlm, picture_of(shown)
        asked = _asked(shown, present, offered)
        fitted = tuple(one.strategy if one.answer is None else one.answer.strategy for one in shown.columns)
        repeated = replace(asked, strategies=fitted)  # whatever options are tuned for the model elsewhere
        return (
            as_json(asked, lvlm.name, picture.label),
            python_code(repeated, lvlm.name, picture, lvlm.loading),
            command_line(repeated, lvlm.name, picture, lvlm.loading),
        )

    def draw(shown: Shown | None, present: Any, offered: Any, opened: bool) -> str:
        if shown is None:
            return _HINT
        return _downloads(app, shown, _asked(shown, present, offered)) if opened else _DRAWN

    @show_errors
    def take(pasted: str) -> tuple[Any, ...]:
        loaded = from_json(pasted, ready(app).name, app.owner_specs)
        if loaded.note:
            gr.Info(html.escape(printable(loaded.note)))
        scene = next((one for one in bundled_scenes() if _label(one.index) == loaded.picture), None)
        values = filled(app, board, loaded.setup)
        if scene is not None:
            return scene.scene.image, *values
        for kept in (board.present, board.offered):
            values[board.fields.index(kept)] = gr.skip()
        gr.Info(html.escape(_elsewhere(loaded.picture)))
        return gr.skip(), *values

    for change in (board.shown.change, board.ticked.then):
        change(tell, [board.shown, board.present, board.offered], [text, python, shell], **QUEUED)
    for change in (board.shown.change, board.ticked.then, opened.change):
        change(draw, [board.shown, board.present, board.offered, opened], downloads, **PAGE_QUEUE)
    fold.expand(lambda: True, None, opened, **QUEUED)
    fold.collapse(lambda: False, None, opened, **QUEUED)
    load.click(take, text, [board.picture, *filling(board)], **IN_ORDER)


def _asked(shown: Shown, present: Any, offered: Any) -> Setup:
    """Return a comparison's set-up with what is known of its picture by now."""
    known = ground_truth(present, offered)
    present, absent = (None if known[name] is None else tuple(known[name]) for name in ("present", "absent"))
    return replace(shown.setup, present=present, absent=absent)


def picture_of(shown: Shown) -> Picture:
    """Say which picture a comparison is about."""
    number = scene_number(shown.picture)
    if number is not None:
        return Picture(_label(number), f"scenes/{number + 1:06d}.png", (SEED, number))
    return Picture("a picture of one's own", "picture.png", None)


def _label(number: int) -> str:
    return f"scene {SEED}/{number}"


def _elsewhere(label: str) -> str:
    made = f"This set-up was made with {label}, which is not here" if label else "This set-up names no picture"
    return f"{made}: the picture and the objects in it stay as they are."


def _downloads(app: AppState, shown: Shown, asked: Setup) -> str:
    lvlm, drawn = app.lvlm, io.BytesIO()
    poster(shown.picture, asked, shown.columns, asked.present, lvlm.name, lvlm.adapter.tokenizer).save(drawn, "PNG")
    table = csv_text(asked, shown.columns, asked.present, lvlm.name).encode("utf-8-sig")
    return render("downloads.html", png=_url("image/png", drawn.getvalue()), csv=_url("text/csv", table))


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
