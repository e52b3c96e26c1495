"""mmhall choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmhall.cli.loading import loads_plain_model
from mmhall.cli.messages import MessagesFile
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    import mmhall


@loads_plain_model
def choose(
    image: Annotated[Path | None, typer.Argument(help="Picture file; of --messages, one that they leave out.")] = None,
    question: Annotated[str | None, typer.Argument(help="What to ask.")] = None,
    messages: MessagesFile = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="An answer to choose from; repeat it. yes and no by default.")
    ] = None,
    model: Annotated[str, typer.Option(help="embedded, a folder, or a hub id.")] = "embedded",
    calibrate: Annotated[
        str | None, typer.Option(help="Take out what the model says without the picture: none, unk, none+unk, ...")
    ] = None,
    mode: Annotated[str, typer.Option(help="diagonal divides by that prior, identity subtracts it.")] = "diagonal",
    scoring: Annotated[str, typer.Option(help="auto, labels, strings or compat.")] = "auto",
    temperature: Annotated[
        float | None, typer.Option(help="Divides log-probabilities, > 0. 1 by default; with compat 0.2.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds picture-free inputs that are noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures.")] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Choose among given answers to a question about a picture, or to messages with pictures among them.

    Example: mmhall choose kitchen.png "Is there a cup in the image?" --choice yes --choice no --calibrate none+unk
    """
    import json
    from dataclasses import asdict

    import mmhall
    from mmhall.cli.messages import asked
    from mmhall.closed import make_choosing

    (about, prompt), choices = asked(image, question, messages), tuple(choice or ("yes", "no"))
    options = {"mode": mode, "scoring": scoring, "temperature": temperature, "seed": seed}
    make_choosing(choices, calibrate, options)
    lvlm = mmhall.load(model, tuned=False, **loading.arguments())
    found = lvlm.choose(about, prompt, choices, calibrate=calibrate, **options)
    print(json.dumps(asdict(found), ensure_ascii=False, indent=1) if as_json else _table(found))


def _table(found: mmhall.Choice) -> str:
    """Write the winner, then plain and calibrated figures of all choices."""
    from mmhall.cli.console import align_columns

    rows: list[tuple[str, ...]] = [("CHOICE", "PLAIN", *(("PRIOR", "CALIBRATED") if found.free is not None else ()))]
    for i, choice in enumerate(found.choices):
        figures = [found.probabilities[i]]
        if found.free is not None:
            figures += [found.free[i], found.calibrated[i]]
        rows.append((choice, *(f"{figure:.4f}" for figure in figures)))
    at = "" if found.temperature == 1 else f" at temperature {found.temperature:g}"
    how = f"scored as {found.method}{at}; calibration: {found.calibration or 'none'}"
    return f"{found.choice}\n\n{align_columns(rows)}\n\n{how}"
