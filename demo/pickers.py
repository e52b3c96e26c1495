"""Strategy pickers of the columns: names to combine and a form of options, which write a specification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import gradio as gr

from mmhall.demo import limits
from mmhall.demo.events import IN_ORDER
from mmhall.demo.forms import Field, list_choices, make_component, option_fields, values_of, write_spec
from mmhall.demo.guard import show_errors
from mmhall.demo.limits import SPEC, STRATEGIES
from mmhall.demo.rendering import render
from mmhall.demo.state import AppState
from mmhall.demo.waiting import require_model, when_loaded
from mmhall.errors import MmhallError
from mmhall.options import parse, split
from mmhall.strategies import card, strategy

_FIRST = ("greedy", "vcd", "vdd", "vhr")
_PARTS = 3
_REDRAWS = count(1)
FIRST_COUNT = 2


@dataclass(frozen=True, slots=True)
class Picker:
    """Components that choose the strategy of one column.

    Attributes:
        names: The strategies to combine.
        spec: Their specification, as `mmhall.strategy` reads it.
        form_spec: State: the specification that the form shows.
        redraw: Hidden number; a new value redraws the form, since Gradio tracks states only in queued events.
        group: Layout column that holds all of them.
    """

    names: gr.Dropdown
    spec: gr.Textbox
    form_spec: gr.State
    redraw: gr.Number
    group: gr.Column


def make_pickers(app: AppState, blocks: gr.Blocks) -> tuple[Picker, ...]:
    """Build one picker for each column; the first `FIRST_COUNT` are visible."""
    pickers = []
    redraws = [gr.Number(0, visible="hidden") for _ in range(STRATEGIES[1])]
    for index, redraw in enumerate(redraws):
        with gr.Column(min_width=170, visible=index < FIRST_COUNT) as group:
            pickers.append(_make_picker(app, index, redraw, group))

    def offer(*values: Any) -> list[Any]:
        choices, specs, numbers = list_choices(app.owner_specs), values[: len(pickers)], values[len(pickers) :]
        redrawn = [next(_REDRAWS) if number else gr.skip() for number in numbers]  # forms that wait for the model
        return [*(_update_choices(spec, choices) for spec in specs), *redrawn]

    inputs = [*(picker.form_spec for picker in pickers), *redraws]
    when_loaded(app, blocks, offer, inputs, [*(picker.names for picker in pickers), *redraws])
    return tuple(pickers)


def redraw_outputs(pickers: Sequence[Picker]) -> list[gr.components.Component]:
    """Return the components that redraw forms, in the order of `redraw_values`."""
    return [*(picker.form_spec for picker in pickers), *(picker.redraw for picker in pickers)]


def redraw_values(specs: Sequence[str], columns: int) -> list[Any]:
    """Return the values of `redraw_outputs` for the first columns; the other columns keep their values."""
    unused = [gr.skip()] * (columns - len(specs))
    return [*specs, *unused, *(next(_REDRAWS) for _ in specs), *unused]


def parts_of(spec: str, owner_specs: Sequence[str]) -> list[str]:
    """Return the entries of the drop-down list that a specification combines."""
    return [part if part in owner_specs else part.partition("(")[0].strip() for part in split(spec)]


def _listed_choices(spec: str, choices: Sequence[str]) -> list[str]:
    """Return the choices that a typed specification combines; empty if one of them is not in the list."""
    try:
        parts = parts_of(spec, choices)
    except MmhallError:
        return []
    return parts if len(parts) <= _PARTS and set(parts) <= set(choices) else []


def _update_choices(spec: str, choices: Sequence[str]) -> Any:
    """Offer all choices; keep the value, unless a specification was typed before the list was complete."""
    return gr.Dropdown(choices) if spec in _FIRST else gr.Dropdown(choices, value=_listed_choices(spec, choices))


def _make_picker(app: AppState, index: int, redraw: gr.Number, group: gr.Column) -> Picker:
    names = gr.Dropdown(
        [*_FIRST],
        value=[_FIRST[index]],
        multiselect=True,
        max_choices=_PARTS,
        label=f"Strategy {index + 1}" + (", the baseline" if index == 0 else ""),
        elem_id=f"strategy-{index + 1}",
        interactive=True,
    )
    form_spec = gr.State(_FIRST[index])
    with gr.Accordion("Options", open=False) as fold:
        spec = gr.Textbox(
            _FIRST[index],
            label=f"Strategy {index + 1}, written out",
            info='As in mmhall.strategy("…"); the fields below write it, or type it.',
            max_length=SPEC,
            interactive=True,
            elem_id=f"spec-{index + 1}",
        )

        @gr.render(inputs=form_spec, triggers=[redraw.change], show_progress="hidden")  # type: ignore[untyped-decorator]
        def form(text: str, index: int = index) -> None:
            _build_form(app, index, text or "", spec, form_spec)

    fold.expand(lambda number: gr.skip() if number else next(_REDRAWS), redraw, redraw, **IN_ORDER)
    picker = Picker(names, spec, form_spec, redraw, group)
    _connect(app, picker)
    return picker


def _connect(app: AppState, picker: Picker) -> None:
    """Keep names, specification and form of a picker in step."""

    @show_errors
    def choose(chosen: list[str], text: str) -> tuple[Any, ...]:
        require_model(app)
        joined = _join_strategies(chosen, text or "", app.owner_specs)
        return joined, joined, next(_REDRAWS)

    def read(text: str, form_text: str) -> tuple[Any, ...]:
        if text == form_text:
            return (gr.skip(),) * 3
        return stay(text), text, next(_REDRAWS)

    def stay(text: str) -> Any:
        choices = list_choices(app.owner_specs) if app.model.done() else [*_FIRST]
        return gr.Dropdown(choices, value=_listed_choices(text, choices))

    names, spec, form_spec, redraw = picker.names, picker.spec, picker.form_spec, picker.redraw
    chosen = names.input(choose, [names, spec], [spec, form_spec, redraw], **IN_ORDER)
    chosen.failure(stay, spec, names, **IN_ORDER)
    gr.on([spec.submit, spec.blur], read, [spec, form_spec], [names, form_spec, redraw], **IN_ORDER)


def _join_strategies(chosen: Sequence[str], text: str, owner_specs: Sequence[str]) -> str:
    """Write chosen strategies as one specification; those of the old specification keep their options.

    Raises:
        MmhallError: They cannot be combined.
    """
    try:
        before = dict(zip(parts_of(text, owner_specs), split(text), strict=True))
        return str(strategy("+".join(before.get(part, part) for part in chosen))) if chosen else ""
    except MmhallError:
        return str(strategy("+".join(chosen)))


def _build_form(app: AppState, index: int, text: str, spec: gr.Textbox, form_spec: gr.State) -> None:
    """Build the form of a specification; its fields write the specification anew."""
    try:
        adapter = require_model(app).adapter
        if not text.strip():
            return
        limits.strategies([text], app.owner_specs)
        chosen = parts_of(text, app.owner_specs)
        fields = option_fields(chosen, adapter)
    except MmhallError as error:
        gr.Textbox(str(error), label="Cannot be used", interactive=False)
        return
    gr.HTML(render("about.html", cards=[card(parse(part)[0]) for part in chosen], bare=not fields))
    components = [
        make_component(field, value, _key(index, field))
        for field, value in zip(fields, values_of(text, chosen, fields), strict=True)
    ]
    if not components:
        return

    @show_errors
    def write(*values: Any) -> tuple[str, str]:
        written = write_spec(chosen, fields, values)
        return written, written

    for field, component in zip(fields, components, strict=True):
        key = (*_key(index, field), "write")
        component.input(write, components, [spec, form_spec], key=key, **IN_ORDER)  # type: ignore[attr-defined]


def _key(index: int, field: Field) -> tuple[Any, ...]:
    """Return a key by which Gradio recognises a field when a form is redrawn."""
    return index, field.part, field.strategy, field.option
