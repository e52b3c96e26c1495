"""Strategies as form fields: their options, ranges and help come from the code, and the form writes a spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from mmhall.decoders import STRATEGIES
from mmhall.errors import MmhallError
from mmhall.options import Rule, parse, rules, split
from mmhall.strategies import card, strategy

if TYPE_CHECKING:
    from mmhall.adapters import Adapter

_SLIDER_STEPS = 100


@dataclass(frozen=True, slots=True)
class Field:
    """One option of one part of a strategy.

    Attributes:
        part: 0-based part of a composition.
        strategy: The part's name.
        option: The option's name.
        rule: What it may be.
        help: What it does.
        usual: Its value on this model unless another is given.
    """

    part: int
    strategy: str
    option: str
    rule: Rule
    help: str
    usual: Any


def offered(owned: Sequence[str]) -> list[str]:
    """List what a column can be made of: strategies that need nothing opened, and what the page's owner offers."""
    own = [name for name in STRATEGIES.names() if not any(rule.opens for rule in rules(STRATEGIES.load(name)).values())]
    return [*own, *(spec for spec in owned if spec not in own)]


def fields(parts: Sequence[str], adapter: Adapter) -> list[Field]:
    """List the options of some strategies, in order.

    Args:
        parts: Specs as in `offered`; of those with options of their own, only these values count.
        adapter: The model: some options have a value of their own for each.

    Raises:
        CompositionError: The model cannot carry one of them.
    """
    found = []
    for number, spec in enumerate(parts):
        method, name = strategy(spec), parse(spec)[0]
        fitted, helps = method.fitted(adapter), {one.name: one.help for one in card(name).options}
        found += [
            Field(number, name, option, rule, helps.get(option, ""), getattr(fitted, option))
            for option, rule in rules(type(method)).items()
            if not rule.opens
        ]
    return found


def written(parts: Sequence[str], known: Sequence[Field], values: Sequence[Any]) -> str:
    """Write a spec from the values of form fields; those left at their usual value are left out.

    Raises:
        MmhallError: A value is out of range.
    """
    made = []
    for number, spec in enumerate(parts):
        method = strategy(spec)
        given = {
            field.option: _read(field, value)
            for field, value in zip(known, values, strict=True)
            if field.part == number
        }
        usual = {field.option: field.usual for field in known if field.part == number}
        changed = {option: value for option, value in given.items() if value is not None and value != usual[option]}
        made.append(str(strategy(method, **changed)))
    return "+".join(made)


def values_of(spec: str, parts: Sequence[str], known: Sequence[Field]) -> list[Any]:
    """Return what a spec gives to form fields; the usual values where it names other strategies or cannot be read."""
    usual = [field.usual for field in known]
    try:
        methods = [strategy(part) for part in split(spec)]
    except MmhallError:
        return usual
    if [method.name for method in methods] != [parse(part)[0] for part in parts]:
        return usual
    given = [getattr(methods[field.part], field.option) for field in known]
    return [own if value is None else value for value, own in zip(given, usual, strict=True)]


def component(field: Field, value: Any, key: Any) -> gr.components.Component:
    """Make the form field of an option: a check box, a choice, a slider, a number or a line of text."""
    rule, told = field.rule, f"{field.help} ({field.rule.describe()})" if field.help else field.rule.describe()
    common: dict[str, Any] = {
        "label": f"{field.strategy}: {field.option}",
        "info": told,
        "key": key,
        "preserved_by_key": None,
        "interactive": True,
    }
    if rule.choices:
        return gr.Dropdown(list(rule.choices), value=value, **common)
    if isinstance(rule.general, bool):
        return gr.Checkbox(value=value, **common)
    if isinstance(rule.general, float) and rule.low is not None and rule.high is not None:
        step = (rule.high - rule.low) / _SLIDER_STEPS
        return gr.Slider(rule.low, rule.high, value=value, step=step, **common)
    if isinstance(rule.general, int | float):
        precision = 0 if isinstance(rule.general, int) else None
        return gr.Number(value, minimum=rule.low, maximum=rule.high, precision=precision, step=_step(rule), **common)
    return gr.Textbox(value if isinstance(value, str) else repr(value), **common)


def _step(rule: Rule) -> float:
    return 1 if isinstance(rule.general, int) else 0.1


def _read(field: Field, value: Any) -> Any:
    """Turn what a form field holds into the option's type; a cleared field means the usual value."""
    general = field.rule.general
    if value is None or value == "":
        return None
    if isinstance(general, tuple) and isinstance(value, str):
        return parse(f"f(x={value})")[1]["x"]
    if isinstance(general, int) and not isinstance(general, bool) and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
