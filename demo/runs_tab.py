"""The tab on which the results of benchmark runs are browsed, down to single items, which load into Compare."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import gradio as gr

from mmhall.demo.compare_tab import Board
from mmhall.demo.events import ORDERLY, WORK, script, waited
from mmhall.demo.guard import telling
from mmhall.demo.limits import strategies
from mmhall.demo.loading import filled, filling
from mmhall.demo.rendering import notice
from mmhall.demo.setups import setup
from mmhall.demo.state import Desk
from mmhall.demo.waiting import ready, when_loaded
from mmhall.errors import DataError, MmhallError, OptionError
from mmhall.text import printable, without_home

ANY = "any"
_HINT = notice("No run is open", "Choose one above; the list holds what lies under the folder given as --runs.")
_OPENING = notice("Being opened", "Its figures are counted, with their intervals and paired tests.")


def runs_tab(desk: Desk, board: Board, blocks: gr.Blocks, tabs: gr.Tabs) -> None:
    """Lay the tab out and wire it."""
    with gr.Row():
        name = gr.Dropdown([], label="Run", elem_id="run-name", interactive=True, scale=3)
        refresh = gr.Button("Look again", elem_id="refresh", min_width=120, scale=1)
    overview = gr.HTML(_HINT, elem_id="overview")
    gr.Markdown("### Where the strategies disagree")
    with gr.Row():
        benchmark = gr.Dropdown([], label="Benchmark", elem_id="benchmark", interactive=True)
        cause = gr.Dropdown(
            [ANY],
            value=ANY,
            label="Why it was made up",
            info="What the object that is not there has going for it.",
            elem_id="cause",
            interactive=True,
        )
        visibility = gr.Dropdown(
            [ANY],
            value=ANY,
            label="How well it shows",
            info="Of an object that is there and some strategies miss.",
            elem_id="visibility",
            interactive=True,
        )
    items = gr.HTML("", js_on_load=script("buttons.js"), elem_id="items")
    listed = gr.State(())

    def first() -> list[Any]:
        from mmhall.demo.runs import found

        return [gr.Dropdown(found(desk.runs), value=None)]

    @telling
    def look() -> Any:
        ready(desk)
        return first()[0]

    @telling
    def show(name: str | None) -> Iterator[tuple[Any, ...]]:
        from mmhall.demo.runs import found, nothing_found, open_run, overview as told

        if not name:
            yield _HINT if found(desk.runs) else nothing_found(), gr.Dropdown([], value=None)
            return
        yield _OPENING, gr.skip()
        run = open_run(desk.runs, name)
        with closing(run.store):
            names = [part.benchmark.name for part in run.parts]
            shown = told(run)
        yield shown, gr.Dropdown(names, value=names[0] if names else None)  # perhaps in another thread

    @telling
    def fit(name: str | None, benchmark: str | None) -> tuple[Any, Any]:
        from mmhall.demo.runs import filters, open_run

        if not name or not benchmark:
            return gr.Dropdown([ANY], value=ANY), gr.Dropdown([ANY], value=ANY)
        run = open_run(desk.runs, name)
        with closing(run.store):
            causes, hows = filters(run, benchmark)
        return gr.Dropdown([ANY, *causes], value=ANY), gr.Dropdown([ANY, *hows], value=ANY)

    @telling
    def sift(name: str | None, benchmark: str | None, cause: str, visibility: str) -> tuple[Any, Any]:
        from mmhall.demo.runs import disagreements, disagreements_html, open_run

        if not name or not benchmark:
            return "", ()
        run = open_run(desk.runs, name)
        with closing(run.store):
            shown = disagreements(run, benchmark, cause, visibility)
        return disagreements_html(shown, cause, visibility), tuple(one.item for one in shown)

    @telling
    def take(event: gr.EventData, name: str | None, benchmark: str | None, listed: Any) -> tuple[Any, ...]:
        lvlm = ready(desk)
        from mmhall.demo.runs import load, open_run

        index = event._data.get("index") if isinstance(event._data, dict) else None
        if not name or not benchmark or not isinstance(index, int) or not 0 <= index < len(listed):
            raise OptionError("demo", "item", index, "one of the list")
        run = open_run(desk.runs, name)
        with closing(run.store):
            loaded = load(run, benchmark, listed[index])
        usable, refused = sorted_out(loaded.strategies, desk.owned)
        told = {"prompt": loaded.prompt, "strategies": usable, "present": loaded.present}
        wanted, _ = setup({**told, "max_new_tokens": loaded.max_new_tokens}, desk.owned)
        if refused:
            gr.Info(html.escape(printable(f"Left out, as it may not be asked for here: {', '.join(refused)}.")))
        if loaded.model != without_home(lvlm.name):
            gr.Info(html.escape(printable(f"This run asked {loaded.model}; here {lvlm.name} answers.")))
        return gr.Tabs(selected="compare"), loaded.picture, *filled(desk, board, wanted)

    opening = {**WORK, **waited(overview)}
    looked = refresh.click(look, None, name, **WORK)
    opened = [event(show, name, [overview, benchmark], **opening) for event in (looked.success, name.input)]
    for one in opened:
        one.failure(lambda: (_HINT, None, "", ()), None, [overview, benchmark, items, listed], **WORK)
    chosen = [name, benchmark, cause, visibility]
    for event in (*(one.success for one in opened), benchmark.input):
        event(fit, [name, benchmark], [cause, visibility], **WORK).success(sift, chosen, [items, listed], **WORK)
    for choice in (cause, visibility):
        choice.input(sift, chosen, [items, listed], **WORK)
    items.select(take, [name, benchmark, listed], [tabs, board.picture, *filling(board)], **ORDERLY)
    when_loaded(desk, blocks, first, [], [name])


def sorted_out(specs: Sequence[str], owned: Collection[str]) -> tuple[list[str], list[str]]:
    """Tell the strategies of a run that visitors may ask for from those that they may not.

    Raises:
        DataError: None is left.
    """
    usable: list[str] = []
    for spec in specs:
        with suppress(MmhallError):
            strategies([spec], owned)
            usable.append(spec)
    refused = [spec for spec in specs if spec not in usable]
    if not usable:
        raise DataError(f"none of this run's strategies may be asked for here: {', '.join(refused)}")
    return usable, refused
