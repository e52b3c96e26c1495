"""The tab on which strategies answer side by side: picture, prompt and strategies in; answers, words and gaze out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from mmhall.demo import saliency_panel as gaze_panel, share_panel
from mmhall.demo.compare import Column, compare
from mmhall.demo.events import IN_ORDER, UNQUEUED, on_model, script
from mmhall.demo.guard import show_errors, uploads_only
from mmhall.demo.limits import PROMPT, STRATEGIES, TOKENS
from mmhall.demo.pickers import FIRST_COUNT, Picker, parts_of, pickers
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
_FIRST = 4  # the scene that is open at first
_AS_BEFORE = (gr.skip(),) * 6  # Gradio's page stumbles over an event that gives nothing at all
EMPTY = notice(
    "No answers yet", "Choose a picture and strategies, then press Run: the answers are written side by side."
)


@dataclass(frozen=True, slots=True)
class Board:
    """The parts of the tab that others read or fill in.

    Attributes:
        picture: The picture.
        prompt: The prompt.
        present: Objects in the picture that are known.
        ticked: The event of ticking one; those that are offered are judged from then on.
        count: How many columns are in use.
        pickers: Of each column.
        tokens: Most tokens of an answer.
        temperature: 0: greedy.
        seed: Of draws.
        answers: The columns.
        legend: Of the marks.
        heat: Where each one looked.
        shown: The comparison, as state.
        offered: Objects that are judged by whether they are ticked, as state; None: all that shows is known.
    """

    picture: gr.Image
    prompt: gr.Textbox
    present: gr.CheckboxGroup
    ticked: Dependency
    count: gr.Radio
    pickers: tuple[Picker, ...]
    tokens: gr.Slider
    temperature: gr.Slider
    seed: gr.Number
    answers: gr.HTML
    legend: gr.HTML
    heat: gr.HTML
    shown: gr.State
    offered: gr.State

    @property
    def asked(self) -> list[Any]:
        """The fields of a set-up, in the order in which `told` reads them."""
        drawn = (self.tokens, self.temperature, self.seed)
        return [self.prompt, *drawn, self.present, self.offered, self.count, *self.specs]

    @property
    def specs(self) -> list[gr.Textbox]:
        """The strategies of all columns, written out."""
        return [picker.spec for picker in self.pickers]

    @property
    def fields(self) -> list[Any]:
        """The fields that a loaded set-up fills in, in the order of `filled`."""
        names = [picker.names for picker in self.pickers]
        groups = [picker.group for picker in self.pickers]
        return [*self.asked, *names, *groups]

    def filled(self, app: AppState, wanted: Setup) -> tuple[Any, ...]:
        """Return the values of `fields` for a set-up; columns that it does not use stay as they are."""
        count = max(2, len(wanted.strategies))
        rest = [gr.skip()] * (len(self.pickers) - len(wanted.strategies))
        known = list(wanted.present or ())
        return (
            wanted.prompt,
            wanted.max_new_tokens,
            wanted.temperature,
            wanted.seed,
            gr.CheckboxGroup(list(dict.fromkeys((*known, *(wanted.absent or ())))), value=known),
            None if known and wanted.absent is None else (*known, *(wanted.absent or ())),
            count,
            *wanted.strategies,
            *rest,
            *(parts_of(spec, app.owner_specs) for spec in wanted.strategies),
            *rest,
            *(gr.Column(visible=index < count) for index in range(len(self.pickers))),
        )


def told(
    prompt: Any, tokens: Any, temperature: Any, seed: Any, present: Any, offered: Any, count: Any, *specs: Any
) -> dict[str, Any]:
    """Put the fields of `Board.asked` together as `setup` takes them."""
    return {
        "prompt": prompt,
        "strategies": list(specs[: count if isinstance(count, int) else len(specs)]),
        "max_new_tokens": tokens,
        "temperature": temperature or 0.0,
        "seed": seed or 0,
        **ground_truth(present, offered),
    }


def compare_tab(app: AppState, blocks: gr.Blocks) -> Board:
    """Lay the tab out and wire it."""
    scenes = bundled_scenes()
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
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
            with gr.Accordion("Length and sampling", open=False):
                tokens = gr.Slider(1, TOKENS, 128, step=1, label="Most tokens", info="Tokens are pieces of words.")
                temperature = gr.Slider(
                    0, TEMPERATURE, 0, step=0.1, label="Temperature", info="0: always the likeliest token; else drawn."
                )
                seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="The same seed draws the same tokens.")
        with gr.Column(scale=5, min_width=320):
            prompt = gr.Textbox(
                PRESETS["Describe"], label="Prompt", lines=1, max_lines=4, max_length=PROMPT, elem_id="prompt"
            )
            with gr.Row(elem_id="presets"):
                for name, text in PRESETS.items():
                    gr.Button(name, size="sm", min_width=90).click(None, None, prompt, js=f"() => {json.dumps(text)}")
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
                columns = pickers(app, blocks)
            groups = [picker.group for picker in columns]
            count.input(_visible, count, groups, **UNQUEUED)
            answers = gr.HTML(EMPTY, js_on_load=script("words.js"), elem_id="answers")
            legend = gr.HTML("", elem_id="legend")
            heat = gr.HTML(gaze_panel.HINT, elem_id="saliency", render=False)
            mode = gr.Radio(
                [("objects named", TRUTH), *((one.label, one.name) for one in SIGNALS)],
                value=TRUTH,
                label="Mark the words by",
                info="Objects need to know what is in the picture; until then, the first signal of the model is shown.",
                elem_id="mode",
            )
            shown, offered = gr.State(None, time_to_live=3600), gr.State(None)
            ticked = present.input(judge_ticked, [shown, offered], offered, **IN_ORDER)
            board = Board(
                picture,
                prompt,
                present,
                ticked,
                count,
                columns,
                tokens,
                temperature,
                seed,
                answers,
                legend,
                heat,
                shown,
                offered,
            )
            gaze_panel.panel(app, board)
            share_panel.panel(app, board)
    _wire(app, board, run, stop, status, mode)
    _wire_picture(app, board, shelf)
    return board


def _wire(app: AppState, board: Board, run: gr.Button, stop: gr.Button, status: gr.HTML, mode: gr.Radio) -> None:
    def begin(request: gr.Request) -> int:
        return app.begin(request.session_hash or "").number

    def leave(request: gr.Request) -> None:
        app.stop(request.session_hash or "")

    @show_errors
    def answer(request: gr.Request, number: Any, image: Any, mode: Any, *asked: Any) -> Iterator[Any]:
        ticket = app.ticket(request.session_hash or "", number)
        if ticket is None:
            yield _AS_BEFORE
            return
        if image is None:
            raise ImageError("there is no picture yet; choose a scene or upload one")
        app.wait()
        wanted, strategies = setup(told(*asked), app.owner_specs)
        with app.exclusive_model() as lvlm:
            tokenizer = lvlm.adapter.tokenizer
            columns: tuple[Column, ...] = ()
            gaze: Any = gaze_panel.HINT
            for columns in compare(lvlm, image, wanted.prompt, strategies, lambda: ticket.stopping, **wanted.settings):
                if not ticket.discarded and any(one.state in ("waiting", "writing") for one in columns):
                    drawn = columns_html(columns, tokenizer, wanted.present, mode, wanted.absent)
                    yield drawn, gr.skip(), gr.skip(), gr.skip(), gaze, ""
                    gaze = gr.skip()
        if ticket.discarded:
            yield _AS_BEFORE
            return
        yield (
            columns_html(columns, tokenizer, wanted.present, mode, wanted.absent),
            legend_html(columns, tokenizer, wanted.present, mode),
            Shown(image, wanted, columns),
            gr.CheckboxGroup(list(_offered(wanted, columns))),  # what was ticked meanwhile stays
            gr.skip(),
            "",
        )

    def mark(shown: Shown | None, present: Any, offered: Any, mode: Any) -> tuple[Any, Any]:
        if shown is None:
            return gr.skip(), gr.skip()
        known, tokenizer = ground_truth(present, offered), app.lvlm.adapter.tokenizer
        return (
            columns_html(shown.columns, tokenizer, known["present"], mode, known["absent"]),
            legend_html(shown.columns, tokenizer, known["present"], mode),
        )

    number = gr.Number(0, visible="hidden")
    answered = run.click(begin, None, number, **IN_ORDER).then(
        answer,
        [number, board.picture, mode, *board.asked],
        [board.answers, board.legend, board.shown, board.present, board.heat, status],
        **on_model(status),
    )
    stop.click(leave, None, None, **UNQUEUED)
    for change in (board.ticked.then, mode.input, answered.success):  # ticks and choices may come while it is written
        change(mark, [board.shown, board.present, board.offered, mode], [board.answers, board.legend], **UNQUEUED)


def _wire_picture(app: AppState, board: Board, shelf: gr.HTML) -> None:
    cleared = [board.present, board.offered, board.answers, board.legend, board.shown, board.heat]

    def take(request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        index = event._data.get("index") if isinstance(event._data, dict) else None
        if not isinstance(index, int) or not 0 <= index < len(bundled_scenes()):
            return (gr.skip(),) * 7
        app.stop(request.session_hash or "", discarded=True)
        scene = bundled_scenes()[index]
        known = gr.CheckboxGroup(list(scene.present), value=list(scene.present))
        return scene.scene.image, known, None, EMPTY, "", None, gaze_panel.HINT

    def forget(request: gr.Request) -> tuple[Any, ...]:
        app.stop(request.session_hash or "", discarded=True)
        return gr.CheckboxGroup([], value=[]), (), EMPTY, "", None, gaze_panel.HINT

    def own(request: gr.Request, image: Any) -> tuple[Any, ...]:
        return forget(request)

    shelf.select(take, None, [board.picture, *cleared], **IN_ORDER)
    board.picture.upload(own, board.picture, cleared, **IN_ORDER).failure(None, None, board.picture, js="() => null")
    board.picture.clear(forget, None, cleared, **IN_ORDER)


def _visible(used: Any) -> list[Any]:
    return [gr.Column(visible=index < (used or 0)) for index in range(STRATEGIES[1])]


def judge_ticked(shown: Shown | None, offered: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return what is judged once something was ticked: all that is offered by then."""
    if offered is None or shown is None:
        return None if offered is None else tuple(offered)
    return tuple(dict.fromkeys((*offered, *_offered(shown.setup, shown.columns))))


def _offered(wanted: Setup, columns: Sequence[Column]) -> tuple[str, ...]:
    """Return what may be ticked: what is known of, and what the answers name."""
    present = wanted.present or ()
    said = (name for column in columns for name in named_objects(column.text, present))
    return tuple(dict.fromkeys((*present, *(wanted.absent or ()), *said)))
