"""Parsing of `--model_args`: the model, its loading options, and the strategy with its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from mmhall.errors import OptionError, UnknownNameError
from mmhall.models import LoadOptions, literal
from mmhall.options import Rule, rules, split
from mmhall.strategies import Composed, Strategy, strategy

OWNER = "lmms-eval"
_TEXTS = ("pretrained", "strategy", "tuned")
_LOADING = ("device", "device_map", "dtype", "quantize", "revision", "chat_template", "trust_remote_code", "artifacts")
_PROCESSOR = "processor."
_COUNTS = ("batch_size", "max_new_tokens")
_NAMES = (*_TEXTS, *_LOADING, *_COUNTS)


@dataclass(frozen=True, kw_only=True)
class Arguments(LoadOptions):
    """The values of `--model_args`, `--batch_size` and `--device`, with the options of `LoadOptions`.

    Attributes:
        strategy: The strategy with its options.
        pretrained: As in `mmhall.load`.
        batch_size: Requests decoded together, >= 1.
        tuned: As in `mmhall.load`; written "none" for False.
        max_new_tokens: Limit of tokens for every answer, >= 1; None: the limit of each task.
    """

    owner: ClassVar[str] = OWNER

    strategy: Strategy
    pretrained: str = "embedded"
    batch_size: int = 1
    tuned: str | Literal[False] | None = None
    max_new_tokens: int | None = None


def split_arguments(text: str) -> dict[str, str]:
    """Split "pretrained=embedded,strategy=vcd(alpha=0.5,beta=0.2)" at the commas outside parentheses and quotes.

    >>> split_arguments("strategy=vcd, alpha=0.5, tuned='my, file.json'")
    {'strategy': 'vcd', 'alpha': '0.5', 'tuned': 'my, file.json'}

    Raises:
        OptionError: A piece is not of the form name=value, or a name is given twice.
    """
    arguments: dict[str, str] = {}
    for piece in filter(str.strip, split(text, ",")):
        name, equals, value = (part.strip() for part in piece.partition("="))
        if not (name and equals):
            raise OptionError(OWNER, "model_args", piece, 'written as "pretrained=embedded,strategy=vcd,alpha=1.0"')
        if name in arguments:
            raise OptionError(OWNER, "model_args", text, f"without a second {name}")
        arguments[name] = _strip_quotes(value)
    return arguments


def make_arguments(given: Mapping[str, Any]) -> Arguments:
    """Build the arguments from names and values; a value is text or already of its type.

    An option of the strategy is given by its name, as "alpha"; for a composition of strategies, by the name of the
    part and the option, as "vhr.layers".

    Raises:
        UnknownNameError: No such strategy, argument or option.
        OptionError: A value is out of range or of the wrong type.
        CompositionError: These strategies cannot be combined.
    """
    arguments = {name: given[name] for name in (*_TEXTS, *_COUNTS) if given.get(name) is not None}
    rest = {name: v for name, v in given.items() if name not in _NAMES and not name.startswith(_PROCESSOR)}
    for name in _TEXTS:
        if name in arguments and not (isinstance(arguments[name], str) and arguments[name]):
            raise OptionError(OWNER, name, arguments[name], "a text")
    for name in _COUNTS:
        if name in arguments:
            arguments[name] = _count(name, arguments[name])
    if arguments.get("tuned") == "none":
        arguments["tuned"] = False
    method = _strategy(arguments.get("strategy", "greedy"), rest)
    return Arguments(**{**arguments, **_loading(given), "strategy": method})


def _loading(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the options of `LoadOptions`; options of the processor are written "processor.max_pixels=200704"."""
    options = {name: given[name] for name in _LOADING if given.get(name) is not None}
    if "trust_remote_code" in options:
        options["trust_remote_code"] = literal(str(options["trust_remote_code"]))
    processor = {k.removeprefix(_PROCESSOR): v for k, v in given.items() if k.startswith(_PROCESSOR)}
    return {**options, "processor": {k: literal(v) if isinstance(v, str) else v for k, v in processor.items()}}


def format_strategy(method: Strategy) -> str:
    """Write a strategy with all its options, defaults included.

    >>> format_strategy(strategy("vdd"))
    "vdd(alpha=None, beta=0.1, free='none', seed=0, draw='picture', weight='constant', twin=0)"
    """
    if isinstance(method, Composed):
        return "+".join(map(format_strategy, method.parts))
    options = ", ".join(f"{name}={value!r}" for name, value in method.options().items())
    return f"{method.name}({options})" if options else method.name


def _strategy(spec: str, given: Mapping[str, Any]) -> Strategy:
    parts = [strategy(part) for part in split(spec)]
    alone = len(parts) == 1
    names = {f"{'' if alone else part.name + '.'}{name}" for part in parts for name in part.options()}
    for name in given:
        if name not in names:
            raise UnknownNameError("model argument", name, {*_NAMES, *names})
    built = []
    for part in parts:
        prefix, rule = "" if alone else f"{part.name}.", rules(type(part))
        written = {name: prefix + name for name in part.options() if prefix + name in given}
        built.append(
            strategy(part, **{name: _parse_value(given[key], rule.get(name)) for name, key in written.items()})
        )
    return built[0] if alone else Composed(tuple(built))


def _parse_value(value: Any, rule: Rule | None) -> Any:
    """Convert a text to the type of an option; a text that cannot be converted stays, for the option to refuse."""
    if not isinstance(value, str) or rule is None or isinstance(rule.general, str):
        return value
    return literal(value) if isinstance(rule.general, bool) or value.lower() not in ("true", "false", "none") else value


def _count(name: str, value: Any) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(OWNER, name, value, "an integer >= 1")
    return value


def _strip_quotes(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
