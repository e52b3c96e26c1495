"""Choose the strategies of the columns: names, and a form for their options, which together write a spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import gradio as gr

from mmhall.demo import limits
from mmhall.demo.events import IN_ORDER
from mmhall.demo.forms import list_choices, make_component, option_fields, values_of, write_spec
from mmhall.demo.guard import show_errors
from mmhall.demo.limits import SPEC, STRATEGIES
from mmhall.demo.rendering import render
from mmhall.demo.state import AppState
from mmhall.demo.waiting import ready, when_loaded
from mmhall.errors import MmhallError
from mmhall.options import parse, split
from mmhall.strategies import card, strategy

_FIRST = ("greedy", "vcd", "vdd", "vhr")
_PARTS = 3
_TIMES = count(1)
FIRST_COUNT = 2


@dataclass(frozen=True, slots=True)
class Picker:
    """What chooses the strategy of one column.

    Attributes:
        names: The strategies it is made of.
        spec: The whole, as `mmhall.strategy` reads it.
        told: The spec that the form shows, as state.
        time: Another number whenever the form is to be drawn anew; a hidden field, as Gradio notices changes of states
            in queued events only.
        group: Holds all.
    """

    names: gr.Dropdown
    spec: gr.Textbox
    told: gr.State
    time: gr.Number
    group: gr.Column


def pickers(app: AppState, blocks: gr.Blocks) -> tuple[Picker, ...]:
    """Lay them out, one a column; the first `FIRST_COUNT` are seen."""
    made = []
    hidden = [gr.Number(0, visible="hidden") for _ in range(STRATEGIES[1])]
    for index, time in enumerate(hidden):
        with gr.Column(min_width=170, visible=index < FIRST_COUNT) as group:
            made.append(_picker(app, index, time, group))

    def offer(*values: Any) -> list[Any]:
        choices, specs, drawn = list_choices(app.owner_specs), values[: len(made)], values[len(made) :]
        again = [next(_TIMES) if time else gr.skip() for time in drawn]  # forms that wait for the model
        return [*(_offer(spec, choices) for spec in specs), *again]

    times = [picker.time for picker in made]
    when_loaded(app, blocks, offer, [*(one.told for one in made), *times], [*(one.names for one in made), *times])
    return tuple(made)


def redrawing(made: Sequence[Picker]) -> list[gr.components.Component]:
    """Return what has forms drawn anew, in the order of `redrawn`."""
    return [*(picker.told for picker in made), *(picker.time for picker in made)]


def redrawn(specs: Sequence[str], columns: int) -> list[Any]:
    """Return the values of `redrawing` for the specs of the first columns; the others stay as they are."""
    rest = [gr.skip()] * (columns - len(specs))
    return [*specs, *rest, *(next(_TIMES) for _ in specs), *rest]


def parts_of(spec: str, owner_specs: Sequence[str]) -> list[str]:
    """Return the entries of the choice that a spec is made of."""
    return [part if part in owner_specs else part.partition("(")[0].strip() for part in split(spec)]


def _listed_choices(spec: str, choices: Sequence[str]) -> list[str]:
    """Return what the choice shows of a spec that somebody typed: nothing where it cannot be chosen there."""
    try:
        parts = parts_of(spec, choices)
    except MmhallError:
        return []
    return parts if len(parts) <= _PARTS and set(parts) <= set(choices) else []


def _offer(spec: str, choices: Sequence[str]) -> Any:
    """Offer all choices; what was chosen stays as it is, unless a spec was typed before its parts were on offer."""
    return gr.Dropdown(choices) if spec in _FIRST else gr.Dropdown(choices, value=_listed_choices(spec, choices))


def _picker(app: AppState, index: int, time: gr.Number, group: gr.Column) -> Picker:
    names = gr.Dropdown(
        [*_FIRST],
        value=[_FIRST[index]],
        multiselect=True,
        max_choices=_PARTS,
        label=f"Strategy {index + 1}" + (", the baseline" if index == 0 else ""),
        elem_id=f"strategy-{index + 1}",
        interactive=True,
    )
    told = gr.State(_FIRST[index])
    with gr.Accordion("Options", open=False) as fold:
        spec = gr.Textbox(
            _FIRST[index],
            label=f"Strategy {index + 1}, written out",
            info='As in mmhall.strategy("…"); the fields below write it, or type it.',
            max_length=SPEC,
            interactive=True,
            elem_id=f"spec-{index + 1}",
        )

        @gr.render(inputs=told, triggers=[time.change], show_progress="hidden")  # type: ignore[untyped-decorator]
        def form(text: str, index: int = index) -> None:
            _form(app, index, text or "", spec, told)

    @show_errors
    def choose(chosen: list[str], text: str) -> tuple[Any, ...]:
        ready(app)
        made = _join_strategies(chosen, text or "", app.owner_specs)
        return made, made, next(_TIMES)

    def read(text: str, told: str) -> tuple[Any, ...]:
        if text == told:
            return (gr.skip(),) * 3
        return stay(text), text, next(_TIMES)

    def stay(text: str) -> Any:
        choices = list_choices(app.owner_specs) if app.model.done() else [*_FIRST]
        return gr.Dropdown(choices, value=_listed_choices(text, choices))

    fold.expand(lambda time: gr.skip() if time else next(_TIMES), time, time, **IN_ORDER)
    names.input(choose, [names, spec], [spec, told, time], **IN_ORDER).failure(stay, spec, names, **IN_ORDER)
    gr.on([spec.submit, spec.blur], read, [spec, told], [names, told, time], **IN_ORDER)
    return Picker(names, spec, told, time, group)


def _join_strategies(chosen: Sequence[str], text: str, owner_specs: Sequence[str]) -> str:
    """Write chosen strategies as one; those that were in the spec before keep their options.

    Raises:
        MmhallError: They cannot be combined.
    """
    try:
        before = dict(zip(parts_of(text, owner_specs), split(text), strict=True))
        return str(strategy("+".join(before.get(part, part) for part in chosen))) if chosen else ""
    except MmhallError:
        return str(strategy("+".join(chosen)))


def _form(app: AppState, index: int, text: str, spec: gr.Textbox, told: gr.State) -> None:
    """Make the fields of a spec; what they say goes into it."""
    try:
        adapter = ready(app).adapter
        if not text.strip():
            return
        limits.strategies([text], app.owner_specs)
        chosen = parts_of(text, app.owner_specs)
        known = option_fields(chosen, adapter)
    except MmhallError as error:
        gr.Textbox(str(error), label="Cannot be used", interactive=False)
        return
    gr.HTML(render("about.html", cards=[card(parse(part)[0]) for part in chosen], bare=not known))
    made = [
        make_component(field, value, (index, field.part, field.strategy, field.option))
        for field, value in zip(known, values_of(text, chosen, known), strict=True)
    ]
    if not made:
        return

    @show_errors
    def write(*values: Any) -> tuple[str, str]:
        new = write_spec(chosen, known, values)
        return new, new

    for field, part in zip(known, made, strict=True):
        key = (index, field.part, field.strategy, field.option, "write")
        part.input(write, made, [spec, told], key=key, **IN_ORDER)  # type: ignore[attr-defined]
