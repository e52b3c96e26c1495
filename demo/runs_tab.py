"""The Runs tab: results of benchmark runs, down to single items that can be loaded into the Compare tab."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr

from mmhall.demo.board import Board
from mmhall.demo.events import IN_ORDER, PAGE_QUEUE, script, show_waiting
from mmhall.demo.guard import show_errors
from mmhall.demo.limits import strategies
from mmhall.demo.loading import loading_outputs, loading_values
from mmhall.demo.rendering import notice
from mmhall.demo.setups import setup
from mmhall.demo.state import AppState
from mmhall.demo.waiting import require_model, when_loaded
from mmhall.errors import DataError, MmhallError, OptionError
from mmhall.text import printable, without_home

ANY = "any"
_HINT = notice("No run is open", "Choose one above; the list holds the runs below the folder given as --runs.")
_OPENING = notice("Being opened", "Its figures are computed, with their intervals and paired tests.")


@dataclass(frozen=True, slots=True)
class _RunsView:
    """Components of the tab.

    Attributes:
        name: Name of the open run.
        refresh: Button that lists the runs again.
        overview: Tables of the run.
        benchmark: Benchmark whose disagreements are shown.
        cause: Filter: cause of a hallucinated object.
        visibility: Filter: visibility of a missed object.
        items: The items, each with a button.
        listed: State: the ids of these items.
    """

    name: gr.Dropdown
    refresh: gr.Button
    overview: gr.HTML
    benchmark: gr.Dropdown
    cause: gr.Dropdown
    visibility: gr.Dropdown
    items: gr.HTML
    listed: gr.State


def runs_tab(app: AppState, board: Board, blocks: gr.Blocks, tabs: gr.Tabs) -> None:
    """Build the tab and connect its events."""
    view, events = _build_view(), _RunsEvents(app, board)
    opening = {**PAGE_QUEUE, **show_waiting(view.overview)}
    refreshed = view.refresh.click(events.look, None, view.name, **PAGE_QUEUE)
    opened = [
        event(events.show, view.name, [view.overview, view.benchmark], **opening)
        for event in (refreshed.success, view.name.input)
    ]
    for event in opened:
        cleared = [view.overview, view.benchmark, view.items, view.listed]
        event.failure(lambda: (_HINT, None, "", ()), None, cleared, **PAGE_QUEUE)
    inputs, outputs = [view.name, view.benchmark, view.cause, view.visibility], [view.items, view.listed]
    for change in (*(event.success for event in opened), view.benchmark.input):
        fitted = change(events.fit, [view.name, view.benchmark], [view.cause, view.visibility], **PAGE_QUEUE)
        fitted.success(events.sift, inputs, outputs, **PAGE_QUEUE)
    for choice in (view.cause, view.visibility):
        choice.input(events.sift, inputs, outputs, **PAGE_QUEUE)
    loaded = [tabs, board.picture, *loading_outputs(board)]
    view.items.select(events.take, [view.name, view.benchmark, view.listed], loaded, **IN_ORDER)
    when_loaded(app, blocks, events.list_names, [], [view.name])


def _build_view() -> _RunsView:
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
    return _RunsView(name, refresh, overview, benchmark, cause, visibility, items, gr.State(()))


@dataclass(frozen=True, slots=True)
class _RunsEvents:
    """Handlers of the tab; `mmhall.demo.runs` is imported inside them, as it needs torch."""

    app: AppState
    board: Board

    def list_names(self) -> list[Any]:
        """Return the names of the runs; none is open."""
        from mmhall.demo.runs import list_runs

        return [gr.Dropdown(list_runs(self.app.runs), value=None)]

    @show_errors
    def look(self) -> Any:
        """List the runs again."""
        require_model(self.app)
        return self.list_names()[0]

    @show_errors
    def show(self, name: str | None) -> Iterator[tuple[Any, ...]]:
        """Open a run; yields its overview and its benchmarks."""
        from mmhall.demo.runs import list_runs, no_runs_notice, open_run, overview

        if not name:
            yield _HINT if list_runs(self.app.runs) else no_runs_notice(), gr.Dropdown([], value=None)
            return
        yield _OPENING, gr.skip()
        run = open_run(self.app.runs, name)
        with closing(run.store):
            names = [part.benchmark.name for part in run.parts]
            tables = overview(run)
        yield tables, gr.Dropdown(names, value=names[0] if names else None)  # may resume in another thread

    @show_errors
    def fit(self, name: str | None, benchmark: str | None) -> tuple[Any, Any]:
        """Fill both filters with the causes and visibilities that occur in a benchmark."""
        from mmhall.demo.runs import filters, open_run

        if not name or not benchmark:
            return gr.Dropdown([ANY], value=ANY), gr.Dropdown([ANY], value=ANY)
        run = open_run(self.app.runs, name)
        with closing(run.store):
            causes, visibilities = filters(run, benchmark)
        return gr.Dropdown([ANY, *causes], value=ANY), gr.Dropdown([ANY, *visibilities], value=ANY)

    @show_errors
    def sift(self, name: str | None, benchmark: str | None, cause: str, visibility: str) -> tuple[Any, Any]:
        """Show the items that pass both filters."""
        from mmhall.demo.runs import disagreements, disagreements_html, open_run

        if not name or not benchmark:
            return "", ()
        run = open_run(self.app.runs, name)
        with closing(run.store):
            items = disagreements(run, benchmark, cause, visibility)
        return disagreements_html(items, cause, visibility), tuple(item.item for item in items)

    @show_errors
    def take(self, event: gr.EventData, name: str | None, benchmark: str | None, listed: Any) -> tuple[Any, ...]:
        """Load an item into the Compare tab."""
        lvlm = require_model(self.app)
        from mmhall.demo.runs import load, open_run

        index = event._data.get("index") if isinstance(event._data, dict) else None
        if not name or not benchmark or not isinstance(index, int) or not 0 <= index < len(listed):
            raise OptionError("demo", "item", index, "one of the list")
        run = open_run(self.app.runs, name)
        with closing(run.store):
            loaded = load(run, benchmark, listed[index])
        usable, refused = split_usable(loaded.strategies, self.app.owner_specs)
        data = {"prompt": loaded.prompt, "strategies": usable, "present": loaded.present}
        checked, _ = setup({**data, "max_new_tokens": loaded.max_new_tokens}, self.app.owner_specs)
        if refused:
            gr.Info(html.escape(printable(f"Left out, as it may not be asked for here: {', '.join(refused)}.")))
        if loaded.model != without_home(lvlm.name):
            gr.Info(html.escape(printable(f"This run asked {loaded.model}; here {lvlm.name} answers.")))
        return gr.Tabs(selected="compare"), loaded.picture, *loading_values(self.app, self.board, checked)


def split_usable(specs: Sequence[str], owner_specs: Collection[str]) -> tuple[list[str], list[str]]:
    """Split a run's strategies into those that visitors may use and those that they may not.

    Raises:
        DataError: None may be used.
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
