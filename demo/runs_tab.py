"""The tab on which the results of benchmark runs are browsed, down to single items, which load into Compare."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import gradio as gr

from mmhall.demo.compare_tab import Board
from mmhall.demo.events import IN_ORDER, PAGE_QUEUE, script, show_waiting
from mmhall.demo.guard import show_errors
from mmhall.demo.limits import strategies
from mmhall.demo.loading import filled, filling
from mmhall.demo.rendering import notice
from mmhall.demo.setups import setup
from mmhall.demo.state import AppState
from mmhall.demo.waiting import ready, when_loaded
from mmhall.errors import DataError, MmhallError, OptionError
from mmhall.text import printable, without_home

ANY = "any"
_HINT = notice("No run is open", "Choose one above; the list holds what lies under the folder given as --runs.")
_OPENING = notice("Being opened", "Its figures are counted, with their intervals and paired tests.")


def runs_tab(app: AppState, board: Board, blocks: gr.Blocks, tabs: gr.Tabs) -> None:
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
        from mmhall.demo.runs import list_runs

        return [gr.Dropdown(list_runs(app.runs), value=None)]

    @show_errors
    def look() -> Any:
        ready(app)
        return first()[0]

    @show_errors
    def show(name: str | None) -> Iterator[tuple[Any, ...]]:
        from mmhall.demo.runs import list_runs, no_runs_notice, open_run, overview as told

        if not name:
            yield _HINT if list_runs(app.runs) else no_runs_notice(), gr.Dropdown([], value=None)
            return
        yield _OPENING, gr.skip()
        run = open_run(app.runs, name)
        with closing(run.store):
            names = [part.benchmark.name for part in run.parts]
            shown = told(run)
        yield shown, gr.Dropdown(names, value=names[0] if names else None)  # perhaps in another thread

    @show_errors
    def fit(name: str | None, benchmark: str | None) -> tuple[Any, Any]:
        from mmhall.demo.runs import filters, open_run

        if not name or not benchmark:
            return gr.Dropdown([ANY], value=ANY), gr.Dropdown([ANY], value=ANY)
        run = open_run(app.runs, name)
        with closing(run.store):
            causes, hows = filters(run, benchmark)
        return gr.Dropdown([ANY, *causes], value=ANY), gr.Dropdown([ANY, *hows], value=ANY)

    @show_errors
    def sift(name: str | None, benchmark: str | None, cause: str, visibility: str) -> tuple[Any, Any]:
        from mmhall.demo.runs import disagreements, disagreements_html, open_run

        if not name or not benchmark:
            return "", ()
        run = open_run(app.runs, name)
        with closing(run.store):
            shown = disagreements(run, benchmark, cause, visibility)
        return disagreements_html(shown, cause, visibility), tuple(one.item for one in shown)

    @show_errors
    def take(event: gr.EventData, name: str | None, benchmark: str | None, listed: Any) -> tuple[Any, ...]:
        lvlm = ready(app)
        from mmhall.demo.runs import load, open_run

        index = event._data.get("index") if isinstance(event._data, dict) else None
        if not name or not benchmark or not isinstance(index, int) or not 0 <= index < len(listed):
            raise OptionError("demo", "item", index, "one of the list")
        run = open_run(app.runs, name)
        with closing(run.store):
            loaded = load(run, benchmark, listed[index])
        usable, refused = split_usable(loaded.strategies, app.owner_specs)
        told = {"prompt": loaded.prompt, "strategies": usable, "present": loaded.present}
        wanted, _ = setup({**told, "max_new_tokens": loaded.max_new_tokens}, app.owner_specs)
        if refused:
            gr.Info(html.escape(printable(f"Left out, as it may not be asked for here: {', '.join(refused)}.")))
        if loaded.model != without_home(lvlm.name):
            gr.Info(html.escape(printable(f"This run asked {loaded.model}; here {lvlm.name} answers.")))
        return gr.Tabs(selected="compare"), loaded.picture, *filled(app, board, wanted)

    opening = {**PAGE_QUEUE, **show_waiting(overview)}
    looked = refresh.click(look, None, name, **PAGE_QUEUE)
    opened = [event(show, name, [overview, benchmark], **opening) for event in (looked.success, name.input)]
    for one in opened:
        one.failure(lambda: (_HINT, None, "", ()), None, [overview, benchmark, items, listed], **PAGE_QUEUE)
    chosen = [name, benchmark, cause, visibility]
    for event in (*(one.success for one in opened), benchmark.input):
        event(fit, [name, benchmark], [cause, visibility], **PAGE_QUEUE).success(
            sift, chosen, [items, listed], **PAGE_QUEUE
        )
    for choice in (cause, visibility):
        choice.input(sift, chosen, [items, listed], **PAGE_QUEUE)
    items.select(take, [name, benchmark, listed], [tabs, board.picture, *filling(board)], **IN_ORDER)
    when_loaded(app, blocks, first, [], [name])


def split_usable(specs: Sequence[str], owner_specs: Collection[str]) -> tuple[list[str], list[str]]:
    """Tell the strategies of a run that visitors may ask for from those that they may not.

    Raises:
        DataError: None is left.
    """
    usable: list[str] = []
    for spec in specs:
        with suppress(MmhallError):
            strategies([spec], owner_specs)
            usable.append(spec)
    refused = [spec for spec in specs if spec not in usable]
    if not usable:
        raise DataError(f"none of this run's strategies may be asked for here: {', '.join(refused)}")
    return usable, refused
