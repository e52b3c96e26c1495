"""Build strategies from their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmhall.errors import OptionError
from mmhall.options import check_known, make, parse, split
from mmhall.strategies._base import Composed, Strategy
from mmhall.strategies._registry import STRATEGIES


def strategy(spec: str | Strategy | type[Strategy], **options: Any) -> Strategy:
    """Build a strategy by name.

    Args:
        spec: "vcd", "vcd(alpha=0.5, beta=0.2)", a composition such as "vhr+vcd", a strategy, or its class.
        **options: Its options; they win over those in `spec`, also over a strategy's. A composition takes its options
            in `spec` only.

    Raises:
        UnknownNameError: There is no such strategy or option.
        OptionError: An option is out of range or of the wrong type.
        CompositionError: These strategies cannot be combined.
    """
    if isinstance(spec, Composed) or (isinstance(spec, str) and len(split(spec)) > 1):
        if options:
            raise OptionError("strategy", "options", options, f"written into the parts of {str(spec)!r}")
        return spec if isinstance(spec, Composed) else Composed(tuple(_single(part, {}) for part in split(spec)))
    return _single(spec, options)


def _single(spec: str | Strategy | type[Strategy], options: Mapping[str, Any]) -> Strategy:
    if isinstance(spec, type) and issubclass(spec, Strategy) and spec not in (Strategy, Composed):
        check_known(spec, options)
        return spec(**options)
    if not isinstance(spec, Strategy | str):
        raise OptionError("strategy", "strategy", spec, 'a name such as "vcd", a strategy, or its class')
    if isinstance(spec, Strategy):
        check_known(type(spec), options)
        return replace(spec, **options) if options else spec
    import mmhall._transformers  # noqa: F401  checks the version first, as strategies import what others lack

    name, given = parse(spec)
    built: Strategy = make(STRATEGIES, name, {**given, **options})
    return built
