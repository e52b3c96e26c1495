"""mmhall list."""

from __future__ import annotations

from typing import Annotated

import typer


def list_names(what: Annotated[str, typer.Argument(help="strategies, benchmarks or models.")]) -> None:
    """List strategies with their options, benchmarks, or model families.

    Example: mmhall list strategies
    """
    import dataclasses
    import sys

    from mmhall.adapters import FAMILIES
    from mmhall.benchmarks import BENCHMARKS
    from mmhall.cli.console import aligned
    from mmhall.decoders import STRATEGIES
    from mmhall.errors import UnknownNameError
    from mmhall.registry import load_target

    tables = {
        "strategies": dict.fromkeys(STRATEGIES.names(), STRATEGIES.load),
        "benchmarks": dict.fromkeys(BENCHMARKS.names(), BENCHMARKS.load),
        "models": {name: (lambda family: load_target(FAMILIES[family])) for name in FAMILIES},
    }
    if what not in tables:
        raise UnknownNameError("list", what, tables)
    rows: list[tuple[str, ...]] = []
    for name, load in tables[what].items():
        kind = load(name)
        card = (sys.modules[kind.__module__].__doc__ or "").strip()
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        options = ", ".join(f"{field.name}={field.default!r}" for field in fields)
        rows.append((name, card.partition("\n")[0], options))
    print(aligned(rows))
