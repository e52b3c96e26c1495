"""The command `mmhall list`: names of strategies, benchmarks and model families."""

from __future__ import annotations

from typing import Annotated

import typer


def list_names(what: Annotated[str, typer.Argument(help="What to list: strategies, benchmarks or models.")]) -> None:
    """List strategies with their cost, benchmarks, or model families and the models that ship with mmhall.

    Example: mmhall list strategies
    """
    import re

    from mmhall.benchmarks import BENCHMARKS
    from mmhall.cli.console import align_columns
    from mmhall.decoders import STRATEGIES
    from mmhall.errors import UnknownNameError
    from mmhall.strategies import heading

    if what == "models":
        print(_model_table())
        return
    tables = {"strategies": STRATEGIES, "benchmarks": BENCHMARKS}
    if what not in tables:
        raise UnknownNameError("list", what, [*tables, "models"])
    rows: list[tuple[str, ...]] = []
    for name in tables[what].names():
        title, sections = heading(tables[what], name)
        cost = re.split(r"[.;] |\.$", " ".join(sections.get("Cost", "").split()))[0]
        rows.append((name, title, cost) if what == "strategies" else (name, title))
    print(align_columns(rows))
    if what == "strategies":
        print("\nmmhall show NAME describes one of them: formula, options, defaults and their source.")


def _model_table() -> str:
    """Return the table of model families, made from their adapters, and the names of the models that ship."""
    from mmhall._declarations import declarations
    from mmhall.cli.console import align_columns
    from mmhall.models import SHIPPED
    from mmhall.registry import load_target

    rows: list[tuple[str, ...]] = [("FAMILY", "IMAGE COLUMNS", "PLACES OF IMAGE TOKENS", "LIMITS")]
    with declarations():
        from mmhall.adapters import FAMILIES

        for family, target in FAMILIES.items():
            adapter = load_target(target)
            where = "cross layers" if "cross" in adapter.image_kinds else "self-attention"
            rows.append((family, where, adapter.grid, adapter.limits or "-"))
    return (
        f"{align_columns(rows)}\n\nAny other family that transformers loads for image-text-to-text is tried generically"
        "\nor refused with the reason; its image tokens have places only if each is a patch of the vision tower."
        f"\n\nModels that ship with mmhall: {', '.join(SHIPPED)}"
    )
