"""The command `mmhall choose`: choose among given answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmhall.cli.loading import loads_plain_model
from mmhall.cli.messages import MessagesFile
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    import mmhall
    from mmhall.closed import RotatedChoice


@loads_plain_model
def choose(
    image: Annotated[
        Path | None, typer.Argument(help="Picture file; with --messages, a picture that they leave out.")
    ] = None,
    question: Annotated[str | None, typer.Argument(help="Question to ask.")] = None,
    messages: MessagesFile = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="Answer to choose from; repeatable. By default, yes and no.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model to load: embedded, a folder, or a hub id.")] = "embedded",
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Calibrate by picture-free inputs: none, unk, none+unk, ...; or by random words in place of the "
            "question's: words, or words(part='cup', picture=False)."
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="Calibration: diagonal divides by the picture-free prior, identity subtracts it.")
    ] = "diagonal",
    scoring: Annotated[str, typer.Option(help="How to score answers: auto, labels, strings or compat.")] = "auto",
    temperature: Annotated[
        float | None, typer.Option(help="Divide log-probabilities by this, > 0. By default, 1; with compat, 0.2.")
    ] = None,
    rotate: Annotated[
        bool, typer.Option(help="Write the choices behind letters, in all rotations; show and take out the bias.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of picture-free inputs that are noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Choose among given answers to a question about a picture, or to messages with pictures.

    Example: mmhall choose kitchen.png "Is there a cup in the image?" --choice yes --choice no --calibrate none+unk
    """
    import json
    from dataclasses import asdict

    import mmhall
    from mmhall.cli.messages import read_request
    from mmhall.closed import check_rotation, choose_option, make_choosing

    (images, prompt), choices = read_request(image, question, messages), tuple(choice or ("yes", "no"))
    options: dict[str, Any] = {"mode": mode, "scoring": scoring, "temperature": temperature, "seed": seed}
    make_choosing(choices, calibrate, options)
    if rotate:
        check_rotation(prompt, choices, options)
    lvlm = mmhall.load(model, tuned=False, **loading.arguments())
    if rotate:
        assert isinstance(prompt, str)
        rotated = choose_option(lvlm, images, prompt, choices, calibrate=calibrate, **options)
        print(json.dumps(asdict(rotated), ensure_ascii=False, indent=1) if as_json else _rotation_table(rotated))
        return
    result = lvlm.choose(images, prompt, choices, calibrate=calibrate, **options)
    print(json.dumps(asdict(result), ensure_ascii=False, indent=1) if as_json else _choice_table(result))


def _rotation_table(result: RotatedChoice) -> str:
    """Return the winner, the probabilities of options and of places, and the bias."""
    from mmhall.cli.console import align_columns

    rows: list[tuple[str, ...]] = [("CHOICE", "AS GIVEN", "DEBIASED", "PLACE")]
    for one, *figures in zip(result.options, result.probabilities, result.debiased, result.places, strict=True):
        rows.append((one, *(f"{figure:.4f}" for figure in figures)))
    same = sum(one == result.choice for one in result.rotations)
    return (
        f"{result.choice}\n\n{align_columns(rows)}\n\n"
        f"position bias {result.bias:.4f}, of at most {1 - 1 / len(result.options):.4f}; {same} of "
        f"{len(result.rotations)} rotations choose the same\n"
        f"letters scored as {result.method}; calibration: {result.calibration or 'none'}"
    )


def _choice_table(result: mmhall.Choice) -> str:
    """Return the winner, then plain and calibrated probabilities of all choices."""
    from mmhall.cli.console import align_columns

    rows: list[tuple[str, ...]] = [("CHOICE", "PLAIN", *(("PRIOR", "CALIBRATED") if result.free is not None else ()))]
    for i, choice in enumerate(result.choices):
        figures = [result.probabilities[i]]
        if result.free is not None:
            figures += [result.free[i], result.calibrated[i]]
        rows.append((choice, *(f"{figure:.4f}" for figure in figures)))
    temperature = "" if result.temperature == 1 else f" at temperature {result.temperature:g}"
    method = f"scored as {result.method}{temperature}; calibration: {result.calibration or 'none'}"
    return f"{result.choice}\n\n{align_columns(rows)}\n\n{method}"
