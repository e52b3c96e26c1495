"""Options as dataclass fields: each declares its default and allowed values once, and can be read from text."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mmhall.errors import OptionError, UnknownNameError
from mmhall.registry import Registry

_RULE = "rule"
_LARGEST = 3.4e38  # the largest float32
_ARGUMENT = re.compile(r"( *)(\w+): (.*)")  # a line of "Attributes:"
_PIECE = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|.""", re.DOTALL)  # a quoted text, or one character


@dataclass(frozen=True, slots=True)
class Rule:
    """The default and the allowed values of an option.

    Attributes:
        general: Its default; if it depends on the model, the default for models without a tuned or published value.
        by_model: Whether it depends on the model and may be left open (None).
        low: Smallest value.
        high: Largest value.
        choices: All allowed values, besides those of the types in `also`.
        also: Allowed types besides its default's.
        holds: A further condition on a value.
        expected: The allowed values in words.
        tries: Values that `mmhall tune` tries.
        opens: Whether it names a file or a model to open.
        learned: Whether its values come from `mmhall fit`, so that there is none to choose.
    """

    general: Any
    by_model: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    also: tuple[type, ...] = ()
    holds: Callable[[Any], bool] | None = None
    expected: str = ""
    tries: tuple[Any, ...] = ()
    opens: bool = False
    learned: bool = False

    def describe(self) -> str:
        """Describe the allowed values, such as "a number in [0, 1]"."""
        if self.expected:
            return self.expected
        if self.choices:
            return " or ".join(f'"{choice}"' if isinstance(choice, str) else repr(choice) for choice in self.choices)
        if isinstance(self.general, bool):
            return "True or False"
        kind = "an integer" if isinstance(self.general, int) else "a number"
        if self.low is None and self.high is None:
            return "a finite number" if isinstance(self.general, float) else f"of type {type(self.general).__name__}"
        if self.low is None or self.high is None:
            return f"{kind} <= {self.high}" if self.low is None else f"{kind} >= {self.low}"
        return (
            f"{kind} from {self.low} to {self.high}" if kind == "an integer" else f"{kind} in [{self.low}, {self.high}]"
        )

    def check(self, owner: str, option: str, value: Any) -> Any:
        """Check a value and return it; an integer is returned as a float where the option is one.

        Raises:
            OptionError: The value is not allowed.
        """
        if value is None and self.by_model:
            return None
        if isinstance(self.general, float) and isinstance(value, int | float) and not isinstance(value, bool):
            value = _as_float(value)
        kinds = (type(self.general), *self.also)
        if tuple in kinds and isinstance(value, list):
            value = tuple(value)
        if type(value) not in kinds:
            raise OptionError(owner, option, value, self.describe())
        if isinstance(value, float) and not abs(value) <= _LARGEST:
            bound = f", of size {_LARGEST:.1e} at most" if math.isfinite(value) else ""
            raise OptionError(owner, option, value, f"{self.describe()}{bound}")
        fits = (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
        fits = fits and (not self.choices or value in self.choices or type(value) in self.also)
        fits = fits and (self.holds is None or self.holds(value))
        if not fits:
            raise OptionError(owner, option, value, self.describe())
        return value


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def option(general: Any, **rule: Any) -> Any:
    """Declare an option by its default and the other attributes of `mmhall.options.Rule`, such as low=0."""
    return dataclasses.field(default=general, metadata={_RULE: Rule(general, **rule)})


def by_model(general: Any, **rule: Any) -> Any:
    """Declare an option whose value depends on the model; otherwise as `option`."""
    return dataclasses.field(default=None, metadata={_RULE: Rule(general, by_model=True, **rule)})


def rules(kind: type) -> dict[str, Rule]:
    """Return the rules of a class's options by name.

    A field without a declared rule must have its default's type; one without a default value has no rule.
    """
    return {
        field.name: field.metadata.get(_RULE, Rule(field.default))
        for field in dataclasses.fields(kind)
        if _RULE in field.metadata or field.default not in (None, dataclasses.MISSING)
    }


def option_helps(kind: type) -> dict[str, str]:
    """Return what the options of a class do, by name: the "Attributes:" of it and its bases; the nearest wins."""
    helps: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        helps |= dict(_attributes(inspect.cleandoc(vars(base).get("__doc__") or "")))
    return helps


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    name, lines, inside = "", list[str](), False
    for line in [*text.splitlines(), "end"]:
        match = _ARGUMENT.fullmatch(line) if inside else None
        starts = match is not None and len(match.group(1)) == 4
        if name and (starts or not line.startswith(" " * 5)):
            yield name, " ".join(lines)
            name = ""
        if starts and match is not None:
            name, lines = match.group(2), [match.group(3)]
        elif name:
            lines.append(line.strip())
        inside = line == "Attributes:" or (inside and (line.startswith(" ") or not line))


def split(spec: str, at: str = "+") -> list[str]:
    """Split "vhr(layers='50%:')+vdd(free='none+unk')" at the plus signs outside parentheses, brackets and quotes."""
    depth, parts = 0, [""]
    for piece in _PIECE.findall(spec):
        depth += (piece in ("(", "[")) - (piece in (")", "]"))
        if piece == at and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def parse(
    spec: str, kind: str = "strategy", like: str = '"vcd", "vcd(alpha=0.5)" or "vhr+vcd"'
) -> tuple[str, dict[str, Any]]:
    """Parse "name(option=value, ...)".

    Args:
        spec: The text.
        kind: What the name stands for, for error messages.
        like: Examples of names, for error messages.

    Raises:
        OptionError: The text has another form.
    """
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", spec, re.DOTALL)
    if match is None:
        raise OptionError(kind, "name", spec, f"a name such as {like}")
    name, inside = match.groups()
    try:
        call = ast.parse(f"f({inside or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError(inside)
        options = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg is not None}
        if len(options) < len(call.keywords):
            raise ValueError(inside)
        return name, options
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise OptionError(name, "options", inside, 'written as "alpha=0.5, beta=0.2"') from None


@dataclass(frozen=True)
class Configured:
    """The base of dataclasses whose fields are options.

    Attributes:
        name: The name on the command line and in error messages.
    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Check each option against its rule."""
        for option, rule in rules(type(self)).items():
            object.__setattr__(self, option, rule.check(self.name, option, getattr(self, option)))

    def check(self, option: str, passes: bool, expected: str) -> None:
        """Raise OptionError unless an option passes."""
        if not passes:
            raise OptionError(self.name, option, getattr(self, option), expected)

    def options(self) -> dict[str, Any]:
        """Return the options by name; None: open until the model is known."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __str__(self) -> str:
        """Return the text that `parse` reads: the name, and the options that differ from their defaults."""
        changed = ", ".join(
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )
        return f"{self.name}({changed})" if changed else self.name


def make(registry: Registry, name: str, options: Mapping[str, Any]) -> Any:
    """Build an instance of a registered class.

    Args:
        registry: Registry of subclasses of `Configured`.
        name: The registered name.
        options: Its options.

    Raises:
        UnknownNameError: There is no such name or option.
        OptionError: An option is out of range or of the wrong type.
    """
    kind = registry.load(name)
    check_known(kind, options)
    return kind(**options)


def check_known(kind: type[Configured], options: Iterable[str]) -> None:
    """Check that a class has all these options.

    Raises:
        UnknownNameError: It lacks one.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in names:
            raise UnknownNameError(f"option of {kind.name}", option, names)
