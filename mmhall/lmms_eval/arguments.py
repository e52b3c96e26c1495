"""Read `--model_args`: which model to load and how, and the strategy with its options."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmhall.errors import OptionError, UnknownNameError
from mmhall.options import Rule, rules, split
from mmhall.strategies import Composed, Strategy, strategy

OWNER = "lmms-eval"
_TEXTS = ("pretrained", "strategy", "device", "dtype", "revision", "tuned")
_COUNTS = ("batch_size", "max_new_tokens")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What `--model_args`, `--batch_size` and `--device` ask for.

    Attributes:
        strategy: With the options given.
        pretrained: As in `mmhall.load`.
        batch_size: Requests answered together, >= 1.
        device: As in `mmhall.load`.
        dtype: As in `mmhall.load`.
        revision: As in `mmhall.load`.
        tuned: As in `mmhall.load`; written "none" for False.
        max_new_tokens: Most tokens of every answer, >= 1; None: what each task asks for.
    """

    strategy: Strategy
    pretrained: str = "embedded"
    batch_size: int = 1
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    tuned: str | Literal[False] | None = None
    max_new_tokens: int | None = None


def split_arguments(text: str) -> dict[str, str]:
    """Split "pretrained=embedded,strategy=vcd(alpha=0.5,beta=0.2)" at the commas outside parentheses and quotes.

    >>> split_arguments("strategy=vcd, alpha=0.5, tuned='my, file.json'")
    {'strategy': 'vcd', 'alpha': '0.5', 'tuned': 'my, file.json'}

    Raises:
        OptionError: A piece is not written like that, or a name is given twice.
    """
    given: dict[str, str] = {}
    for piece in filter(str.strip, split(text, ",")):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if not (name and equals):
            raise OptionError(OWNER, "model_args", piece, 'written as "pretrained=embedded,strategy=vcd,alpha=1.0"')
        if name in given:
            raise OptionError(OWNER, "model_args", text, f"without a second {name}")
        given[name] = _unquoted(value)
    return given


def make_arguments(given: Mapping[str, Any]) -> Arguments:
    """Build arguments from names and values, as text or already of the right type.

    An option of the strategy goes by its name, as "alpha"; where several strategies are combined, by the name of the
    part and its own, as "vhr.layers".

    Raises:
        UnknownNameError: No such strategy, argument or option.
        OptionError: A value is out of range or of the wrong type.
        CompositionError: These strategies cannot be combined.
    """
    own = {name: given[name] for name in (*_TEXTS, *_COUNTS) if given.get(name) is not None}
    rest = {name: value for name, value in given.items() if name not in (*_TEXTS, *_COUNTS)}
    for name in _TEXTS:
        if name in own and not (isinstance(own[name], str) and own[name]):
            raise OptionError(OWNER, name, own[name], "a text")
    for name in _COUNTS:
        if name in own:
            own[name] = _count(name, own[name])
    if own.get("tuned") == "none":
        own["tuned"] = False
    return Arguments(**{**own, "strategy": _strategy(own.get("strategy", "greedy"), rest)})


def told(method: Strategy) -> str:
    """Write a strategy with every option, also those that have their defaults.

    >>> told(strategy("vdd"))
    "vdd(alpha=None, beta=0.1, free='none', seed=0, draw='picture')"
    """
    if isinstance(method, Composed):
        return "+".join(map(told, method.parts))
    options = ", ".join(f"{name}={value!r}" for name, value in method.options().items())
    return f"{method.name}({options})" if options else method.name


def _strategy(spec: str, given: Mapping[str, Any]) -> Strategy:
    parts = [strategy(part) for part in split(spec)]
    alone = len(parts) == 1
    known = {f"{'' if alone else part.name + '.'}{name}" for part in parts for name in part.options()}
    for name in given:
        if name not in known:
            raise UnknownNameError("model argument", name, {*_TEXTS, *_COUNTS, *known})
    built = []
    for part in parts:
        prefix, rule = "" if alone else f"{part.name}.", rules(type(part))
        written = {name: prefix + name for name in part.options() if prefix + name in given}
        built.append(strategy(part, **{name: _typed(given[key], rule.get(name)) for name, key in written.items()}))
    return built[0] if alone else Composed(tuple(built))


def _typed(value: Any, rule: Rule | None) -> Any:
    """Read text as what its rule wants; what cannot be read stays text, which the rule then refuses."""
    if not isinstance(value, str) or rule is None or isinstance(rule.general, str):
        return value
    try:
        return ast.literal_eval(value.capitalize() if isinstance(rule.general, bool) else value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return value


def _count(name: str, value: Any) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(OWNER, name, value, "an integer >= 1")
    return value


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
