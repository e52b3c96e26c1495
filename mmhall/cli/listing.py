"""mmhall list."""

from __future__ import annotations

from typing import Annotated

import typer


def list_names(what: Annotated[str, typer.Argument(help="strategies, benchmarks or models.")]) -> None:
    """List strategies, benchmarks or model families.

    Example: mmhall list strategies
    """
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
        card = sys.modules[load(name).__module__].__doc__ or ""
        rows.append((name, card.strip().splitlines()[0]))
    print(aligned(rows))
