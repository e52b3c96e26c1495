"""The command `mmhall explain`: what a strategy does on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmhall.cli.loading import loads_model
from mmhall.models import LoadOptions


@loads_model
def explain(
    strategy: Annotated[str, typer.Argument(help='Strategy, such as vcd or "vhr+vcd"; see: mmhall list strategies.')],
    image: Annotated[Path | None, typer.Argument(help="Picture file. By default, a grey picture.")] = None,
    prompt: Annotated[str | None, typer.Argument(help="Prompt. By default, a short question.")] = None,
    model: Annotated[str, typer.Option(help="Model to load: embedded, a folder, or a hub id.")] = "embedded",
    num_beams: Annotated[int | None, typer.Option(help="Number of beams. By default, the strategy's own.")] = None,
    tuned: Annotated[str | None, typer.Option(help='File with tuned options, or "none"; as in generate.')] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the explanation as JSON.")] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Explain, before any decoding, what a strategy edits in a model, its branches, and the cost of a token.

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
    explanation = lvlm.explain(chosen, image, prompt, **settings)
    print(json.dumps(explanation.to_dict(), ensure_ascii=False, indent=1) if as_json else explanation)
