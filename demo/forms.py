"""Forms for strategies: fields made from the options, and the specification that they write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from mmhall.decoders import STRATEGIES
from mmhall.errors import MmhallError
from mmhall.options import Rule, parse, rules, split
from mmhall.strategies import LearnedStrategy, card, strategy

if TYPE_CHECKING:
    from mmhall.adapters import Adapter
    from mmhall.strategies import Strategy

_SLIDER_STEPS = 100


@dataclass(frozen=True, slots=True)
class Field:
    """One option of one part of a strategy.

    Attributes:
        part: 0-based index of the part in a composition.
        strategy: Name of the part.
        option: Name of the option.
        rule: Allowed values.
        help: What the option does.
        default: Value on this model unless another is given.
    """

    part: int
    strategy: str
    option: str
    rule: Rule
    help: str
    default: Any


def list_choices(owner_specs: Sequence[str]) -> list[str]:
    """List the strategies to choose from, with those that the page's owner offers.

    Strategies that open a file or a model, or that need a fit, are offered by the owner only.
    """
    names = [name for name in STRATEGIES.names() if _needs_nothing(STRATEGIES.load(name))]
    return [*names, *(spec for spec in owner_specs if spec not in names)]


def _needs_nothing(kind: type[Strategy]) -> bool:
    needs_fit = issubclass(kind, LearnedStrategy) and not kind.optional
    return not needs_fit and not any(rule.opens for rule in rules(kind).values())


def option_fields(parts: Sequence[str], adapter: Adapter) -> list[Field]:
    """List the options of some strategies, in order.

    Args:
        parts: Entries of `list_choices`; options written there are the defaults.
        adapter: The model, on which some defaults depend.

    Raises:
        CompositionError: The model does not support one of the strategies.
    """
    fields = []
    for number, spec in enumerate(parts):
        method, name = strategy(spec), parse(spec)[0]
        fitted, helps = method.fitted(adapter), {entry.name: entry.help for entry in card(name).options}
        fields += [
            Field(number, name, option, rule, helps.get(option, ""), getattr(fitted, option))
            for option, rule in rules(type(method)).items()
            if not (rule.opens or rule.learned)
        ]
    return fields


def write_spec(parts: Sequence[str], fields: Sequence[Field], values: Sequence[Any]) -> str:
    """Write a specification from the values of form fields; default values are left out.

    Raises:
        MmhallError: A value is out of range.
    """
    written = []
    for number, spec in enumerate(parts):
        method = strategy(spec)
        entered = {
            field.option: _read(field, value)
            for field, value in zip(fields, values, strict=True)
            if field.part == number
        }
        default = {field.option: field.default for field in fields if field.part == number}
        changed = {option: value for option, value in entered.items() if value is not None and value != default[option]}
        written.append(str(strategy(method, **changed)))
    return "+".join(written)


def values_of(spec: str, parts: Sequence[str], fields: Sequence[Field]) -> list[Any]:
    """Return the values of form fields for a specification; defaults if it names other strategies or is malformed."""
    default = [field.default for field in fields]
    try:
        methods = [strategy(part) for part in split(spec)]
    except MmhallError:
        return default
    if [method.name for method in methods] != [parse(part)[0] for part in parts]:
        return default
    values = [getattr(methods[field.part], field.option) for field in fields]
    return [usual if value is None else value for value, usual in zip(values, default, strict=True)]


def make_component(field: Field, value: Any, key: Any) -> gr.components.Component:
    """Build the form field of an option: a check box, list, slider, number or text box."""
    rule, info = field.rule, f"{field.help} ({field.rule.describe()})" if field.help else field.rule.describe()
    common: dict[str, Any] = {
        "label": f"{field.strategy}: {field.option}",
        "info": info,
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
    """Convert the value of a form field to the option's type; None: the field is empty, use the default."""
    general = field.rule.general
    if value is None or value == "":
        return None
    if isinstance(general, tuple) and isinstance(value, str):
        return parse(f"f(x={value})")[1]["x"]
    if isinstance(general, int) and not isinstance(general, bool) and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
