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

    from mmhall.benchmarks import BENCHMARKS
    from mmhall.cli.console import aligned
    from mmhall.decoders import STRATEGIES
    from mmhall.errors import UnknownNameError

    if what == "models":
        print(_models())
        return
    tables = {
        "strategies": dict.fromkeys(STRATEGIES.names(), STRATEGIES.load),
        "benchmarks": dict.fromkeys(BENCHMARKS.names(), BENCHMARKS.load),
    }
    if what not in tables:
        raise UnknownNameError("list", what, [*tables, "models"])
    rows: list[tuple[str, ...]] = []
    for name, load in tables[what].items():
        kind = load(name)
        card = (sys.modules[kind.__module__].__doc__ or "").strip()
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        options = ", ".join(f"{field.name}={field.default!r}" for field in fields)
        rows.append((name, card.partition("\n")[0], options))
    print(aligned(rows))


def _models() -> str:
    """Write the table of model families, from their adapters."""
    from mmhall.adapters import FAMILIES
    from mmhall.cli.console import aligned
    from mmhall.registry import load_target

    rows: list[tuple[str, ...]] = [("FAMILY", "IMAGE COLUMNS", "PLACES OF IMAGE TOKENS", "LIMITS")]
    for family, target in FAMILIES.items():
        adapter = load_target(target)
        where = "cross layers" if "cross" in adapter.image_kinds else "self-attention"
        rows.append((family, where, adapter.grid, adapter.limits or "-"))
    return (
        f"{aligned(rows)}\n\nAny other family that transformers loads for image-text-to-text is tried as it is, and"
        "\nrefused with what it lacks; its image tokens have places only where each is a patch of the vision tower."
    )
