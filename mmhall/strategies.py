"""What a decoding strategy is: options as data, and a session per request.

A strategy is a frozen dataclass; the command line and result files read its fields. Its `prepare`
returns a `Session`, which wishes for any of four things and is otherwise plain greedy.
Neutral options give an empty session, so that neutral equals greedy exactly.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mmhall.errors import CompositionError, OptionError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from mmhall.adapters.base import Adapter, Inputs
    from mmhall.attention import Op

    Combine = Callable[..., Tensor]
    Search = Callable[..., Tensor]


@dataclass(frozen=True)
class Session:
    """What one request wants from the decoding loop.

    Attributes:
        ops: What to read or steer in attention.
        branches: Further inputs decoded beside the main ones, each a batch of the same size; they need `combine`.
        combine: Takes log-probabilities (batch, vocabulary) of the main inputs and of each branch;
            returns next-token scores of the same shape, -inf where a token is out.
        search: Takes the place of greedy, sampling and beams: called with the prepared batch, its rows, this
            session, the generation settings in force and a streamer or None, it returns what `mmhall.generation.run`'s
            `run` does.
    """

    ops: Sequence[Op] = ()
    branches: Sequence[Inputs] = ()
    combine: Combine | None = None
    search: Search | None = None

    def __post_init__(self) -> None:
        """Refuse branches nobody would read."""
        if self.branches and self.combine is None:
            raise CompositionError("a session has branches but no `combine` to read them with")


@dataclass(frozen=True)
class Strategy:
    """A decoding method with its options.

    Attributes:
        name: How people call it.
        beams: Beams where the user names no number; more than one where it searches by itself.
    """

    name: ClassVar[str]
    beams: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Check each option's type against its default's; integers count as floats."""
        for field in dataclasses.fields(self):
            object.__setattr__(
                self, field.name, _fitting(self.name, field.name, getattr(self, field.name), field.default)
            )

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Return what this request needs.

        Args:
            adapter: The model.
            inputs: The batch about to be decoded.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to prepare a request")

    def options(self) -> dict[str, Any]:
        """Return the options by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __str__(self) -> str:
        """Write it as `strategy` reads it: the name, and the options that differ from their defaults."""
        changed = ", ".join(
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )
        return f"{self.name}({changed})" if changed else self.name

    def check(self, option: str, passes: bool, expected: str) -> None:
        """Raise OptionError unless an option passes and is a finite number."""
        value = getattr(self, option)
        if not passes or (isinstance(value, float) and not math.isfinite(value)):
            raise OptionError(self.name, option, value, expected)


def strategy(spec: str | Strategy, **options: Any) -> Strategy:
    """Build a strategy by name.

    Args:
        spec: "vcd", "vcd(alpha=0.5, beta=0.2)", or a strategy, returned as it is.
        **options: Its options; they win over those in `spec`.

    Raises:
        UnknownNameError: No such strategy or option.
        OptionError: An option is out of range or of the wrong type.
    """
    from mmhall.decoders import STRATEGIES

    if not isinstance(spec, Strategy | str):
        raise OptionError("strategy", "strategy", spec, 'a name such as "vcd", or a strategy')
    if isinstance(spec, Strategy):
        name, kind, given = spec.name, type(spec), {**spec.options(), **options}
    else:
        name, written = _parse(spec)
        kind, given = STRATEGIES.load(name), {**written, **options}
    known = [field.name for field in dataclasses.fields(kind)]
    for option in given:
        if option not in known:
            raise UnknownNameError(f"option of {name}", option, known)
    return kind(**given) if options or isinstance(spec, str) else spec


def _parse(spec: str) -> tuple[str, dict[str, Any]]:
    """Split "name(option=value, ...)"."""
    match = re.fullmatch(r"\s*([\w+-]+)\s*(?:\((.*)\))?\s*", spec, re.DOTALL)
    if match is None:
        raise OptionError("strategy", "name", spec, 'a name such as "vcd" or "vcd(alpha=0.5)"')
    name, inside = match.groups()
    try:
        call = ast.parse(f"f({inside or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(word.arg is None for word in call.keywords):
            raise ValueError(inside)
        return name, {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError):
        raise OptionError(name, "options", inside, 'written as "alpha=0.5, beta=0.2"') from None


def _fitting(owner: str, option: str, value: Any, default: Any) -> Any:
    """Check a value against the type of the option's default; integers count as floats."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise OptionError(owner, option, value, f"of type {type(default).__name__}")
    return value
