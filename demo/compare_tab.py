"""The Compare tab: one picture and prompt, two to four strategies; their answers, marked words and heat maps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from mmhall.demo import saliency_panel, share_panel
from mmhall.demo.board import Board, to_setup_data
from mmhall.demo.compare import Column, compare
from mmhall.demo.events import IN_ORDER, UNQUEUED, on_model, script
from mmhall.demo.guard import show_errors, uploads_only
from mmhall.demo.limits import PROMPT, STRATEGIES, TOKENS
from mmhall.demo.pickers import FIRST_COUNT, make_pickers
from mmhall.demo.rendering import notice
from mmhall.demo.scenes import bundled_scenes
from mmhall.demo.setups import TEMPERATURE, Setup, ground_truth, setup
from mmhall.demo.state import AppState, Shown
from mmhall.demo.view import columns_html, legend_html, scenes_html
from mmhall.demo.words import SIGNALS, TRUTH, named_objects
from mmhall.errors import ImageError

PRESETS = {
    "Describe": "Please describe this image in detail.",
    "Is there a …?": "Is there a dog in the image?",
    "What colour …?": "What color is the car?",
}
_FIRST = 4  # index of the scene shown when the page opens
_UNCHANGED = (gr.skip(),) * 6  # Gradio's page fails on an event without any output
EMPTY = notice(
    "No answers yet", "Choose a picture and strategies, then press Run: the answers are written side by side."
)


def compare_tab(app: AppState, blocks: gr.Blocks) -> Board:
    """Build the tab and connect its events."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            shelf, picture, present = _picture_fields()
            tokens, temperature, seed = _sampling_fields()
        with gr.Column(scale=5, min_width=320):
            prompt = _prompt_field()
            with gr.Row(elem_id="actions", equal_height=False):
                count = gr.Radio(
                    list(range(2, STRATEGIES[1] + 1)),
                    value=FIRST_COUNT,
                    label="Side by side",
                    elem_id="count",
                    scale=0,
                    min_width=250,
                )
                run = gr.Button("Run", variant="primary", elem_id="run", min_width=120)
                stop = gr.Button("Stop", elem_id="stop", min_width=120)
                status = gr.HTML("", elem_id="status", min_height=24)
            with gr.Row(elem_id="pickers"):
                columns = make_pickers(app, blocks)
            count.input(_show_columns, count, [picker.group for picker in columns], **UNQUEUED)
            answers = gr.HTML(EMPTY, js_on_load=script("words.js"), elem_id="answers")
            legend = gr.HTML("", elem_id="legend")
            saliency = gr.HTML(saliency_panel.HINT, elem_id="saliency", render=False)
            mode = _mode_field()
            shown, offered = gr.State(None, time_to_live=3600), gr.State(None)
            ticked = present.input(judge_ticked, [shown, offered], offered, **IN_ORDER)
            sampling = (tokens, temperature, seed)
            outputs = (answers, legend, saliency)
            board = Board(picture, prompt, present, ticked, count, columns, *sampling, *outputs, shown, offered)
            saliency_panel.panel(app, board)
            share_panel.panel(app, board)
    _connect_answers(app, board, run, stop, status, mode)
    _connect_picture(app, board, shelf)
    return board


def _picture_fields() -> tuple[gr.HTML, gr.Image, gr.CheckboxGroup]:
    """Lay out the bundled scenes, the picture and the objects in it."""
    scenes = bundled_scenes()
    shelf = gr.HTML(scenes_html(scenes), js_on_load=script("buttons.js"), elem_id="scenes")
    picture = uploads_only(
        gr.Image(
            scenes[_FIRST].scene.image,
            label="Picture",
            type="pil",
            format="png",
            sources=["upload", "clipboard", "webcam"],
            height=300,
            alt_text="The picture that the strategies are asked about",
            elem_id="picture",
        )
    )
    present = gr.CheckboxGroup(
        list(scenes[_FIRST].present),
        value=list(scenes[_FIRST].present),
        label="Objects in the picture",
        info="Known for the scenes. For a picture of your own, run first, then tick all that is really there.",
        elem_id="present",
        interactive=True,
    )
    return shelf, picture, present


def _sampling_fields() -> tuple[gr.Slider, gr.Slider, gr.Number]:
    """Lay out answer length, temperature and seed."""
    with gr.Accordion("Length and sampling", open=False):
        tokens = gr.Slider(1, TOKENS, 128, step=1, label="Most tokens", info="Tokens are pieces of words.")
        temperature = gr.Slider(
            0, TEMPERATURE, 0, step=0.1, label="Temperature", info="0: always the likeliest token; else drawn."
        )
        seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="The same seed draws the same tokens.")
    return tokens, temperature, seed


def _prompt_field() -> gr.Textbox:
    """Lay out the prompt and the buttons that fill it."""
    prompt = gr.Textbox(PRESETS["Describe"], label="Prompt", lines=1, max_lines=4, max_length=PROMPT, elem_id="prompt")
    with gr.Row(elem_id="presets"):
        for name, text in PRESETS.items():
            gr.Button(name, size="sm", min_width=90).click(None, None, prompt, js=f"() => {json.dumps(text)}")
    return prompt


def _mode_field() -> gr.Radio:
    """Lay out the choice of marks on words: the truth, or a signal of the model."""
    return gr.Radio(
        [("objects named", TRUTH), *((signal.label, signal.name) for signal in SIGNALS)],
        value=TRUTH,
        label="Mark the words by",
        info="Objects need to know what is in the picture; until then, the first signal of the model is shown.",
        elem_id="mode",
    )


@dataclass(frozen=True, slots=True)
class _AnswerEvents:
    """Handlers of Run, Stop and the choice of marks."""

    app: AppState

    def begin(self, request: gr.Request) -> int:
        """Return the number of a new ticket of this visitor."""
        return self.app.begin(request.session_hash or "").number

    def leave(self, request: gr.Request) -> None:
        """Stop the comparison of this visitor."""
        self.app.stop(request.session_hash or "")

    @show_errors
    def answer(self, request: gr.Request, number: Any, image: Any, mode: Any, *fields: Any) -> Iterator[Any]:
        """Answer with every strategy; yields the values of the outputs of Run."""
        ticket = self.app.ticket(request.session_hash or "", number)
        if ticket is None:
            yield _UNCHANGED
            return
        if image is None:
            raise ImageError("there is no picture yet; choose a scene or upload one")
        self.app.wait_for_model()
        checked, strategies = setup(to_setup_data(*fields), self.app.owner_specs)
        with self.app.exclusive_model() as lvlm:
            tokenizer = lvlm.adapter.tokenizer
            columns: tuple[Column, ...] = ()
            saliency: Any = saliency_panel.HINT
            for columns in compare(
                lvlm, image, checked.prompt, strategies, lambda: ticket.stopping, **checked.settings
            ):
                if not ticket.discarded and any(column.state in ("waiting", "writing") for column in columns):
                    html = columns_html(columns, tokenizer, checked.present, mode, checked.absent)
                    yield html, gr.skip(), gr.skip(), gr.skip(), saliency, ""
                    saliency = gr.skip()
        if ticket.discarded:
            yield _UNCHANGED
            return
        yield (
            columns_html(columns, tokenizer, checked.present, mode, checked.absent),
            legend_html(columns, tokenizer, checked.present, mode),
            Shown(image, checked, columns),
            gr.CheckboxGroup(list(_tickable_objects(checked, columns))),  # keeps what was ticked meanwhile
            gr.skip(),
            "",
        )

    def mark(self, shown: Shown | None, present: Any, offered: Any, mode: Any) -> tuple[Any, Any]:
        """Return the answers and their legend, marked anew."""
        if shown is None:
            return gr.skip(), gr.skip()
        truth, tokenizer = ground_truth(present, offered), self.app.lvlm.adapter.tokenizer
        return (
            columns_html(shown.columns, tokenizer, truth["present"], mode, truth["absent"]),
            legend_html(shown.columns, tokenizer, truth["present"], mode),
        )


def _connect_answers(
    app: AppState, board: Board, run: gr.Button, stop: gr.Button, status: gr.HTML, mode: gr.Radio
) -> None:
    events, number = _AnswerEvents(app), gr.Number(0, visible="hidden")
    answered = run.click(events.begin, None, number, **IN_ORDER).then(
        events.answer,
        [number, board.picture, mode, *board.setup_inputs],
        [board.answers, board.legend, board.shown, board.present, board.saliency, status],
        **on_model(status),
    )
    stop.click(events.leave, None, None, **UNQUEUED)
    inputs, outputs = [board.shown, board.present, board.offered, mode], [board.answers, board.legend]
    for change in (board.ticked.then, mode.input, answered.success):  # objects may be ticked while answers are written
        change(events.mark, inputs, outputs, **UNQUEUED)


@dataclass(frozen=True, slots=True)
class _PictureEvents:
    """Handlers of another picture: the answers to the old one are stopped and cleared."""

    app: AppState

    def take(self, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        """Show a bundled scene and the objects in it."""
        index = event._data.get("index") if isinstance(event._data, dict) else None
        if not isinstance(index, int) or not 0 <= index < len(bundled_scenes()):
            return (gr.skip(),) * 7
        self.app.stop(request.session_hash or "", discarded=True)
        scene = bundled_scenes()[index]
        present = gr.CheckboxGroup(list(scene.present), value=list(scene.present))
        return scene.scene.image, present, None, EMPTY, "", None, saliency_panel.HINT

    def forget(self, request: gr.Request) -> tuple[Any, ...]:
        """Clear the answers; no object is known to be present."""
        self.app.stop(request.session_hash or "", discarded=True)
        return gr.CheckboxGroup([], value=[]), (), EMPTY, "", None, saliency_panel.HINT

    def own(self, request: gr.Request, image: Any) -> tuple[Any, ...]:
        """Clear the answers for an uploaded picture."""
        return self.forget(request)


def _connect_picture(app: AppState, board: Board, shelf: gr.HTML) -> None:
    events = _PictureEvents(app)
    cleared = [board.present, board.offered, board.answers, board.legend, board.shown, board.saliency]
    shelf.select(events.take, None, [board.picture, *cleared], **IN_ORDER)
    uploaded = board.picture.upload(events.own, board.picture, cleared, **IN_ORDER)
    uploaded.failure(None, None, board.picture, js="() => null")
    board.picture.clear(events.forget, None, cleared, **IN_ORDER)


def _show_columns(count: Any) -> list[Any]:
    return [gr.Column(visible=index < (count or 0)) for index in range(STRATEGIES[1])]


def judge_ticked(shown: Shown | None, offered: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the objects to judge after one was ticked: all that the page offers by then."""
    if offered is None or shown is None:
        return None if offered is None else tuple(offered)
    return tuple(dict.fromkeys((*offered, *_tickable_objects(shown.setup, shown.columns))))


def _tickable_objects(checked: Setup, columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the objects that the page offers: those of the set-up, and those that answers name."""
    present = checked.present or ()
    from_answers = (name for column in columns for name in named_objects(column.text, present))
    return tuple(dict.fromkeys((*present, *(checked.absent or ()), *from_answers)))
