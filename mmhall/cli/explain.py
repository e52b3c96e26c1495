"""mmhall explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmhall.cli.loading import loads_model
from mmhall.models import LoadOptions


@loads_model
def explain(
    strategy: Annotated[str, typer.Argument(help='Such as vcd or "vhr+vcd"; see: mmhall list strategies.')],
    image: Annotated[Path | None, typer.Argument(help="Picture file; by default a grey picture.")] = None,
    prompt: Annotated[str | None, typer.Argument(help="What is asked; by default a short question.")] = None,
    model: Annotated[str, typer.Option(help="embedded, a folder, or a hub id.")] = "embedded",
    num_beams: Annotated[int | None, typer.Option(help="Beams of the search; by default the strategy's own.")] = None,
    tuned: Annotated[str | None, typer.Option(help='File of tuned options, or "none"; as in generate.')] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Explain what a strategy does on a model before anything runs: what it steers, its branches, and what it costs.

    Example: mmhall explain "vhr+vcd"
    """
    import json

    import mmhall
    from mmhall.cli.console import parse_tuned
    from mmhall.generation import make_settings

    options, chosen = parse_tuned(tuned), mmhall.strategy(strategy)
    settings: dict[str, Any] = {"num_beams": num_beams}
    make_settings(settings)
    lvlm = mmhall.load(model, tuned=options, **loading.arguments())
    told = lvlm.explain(chosen, image, prompt, **settings)
    print(json.dumps(told.to_dict(), ensure_ascii=False, indent=1) if as_json else told)
