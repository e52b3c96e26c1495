"""The command `mmhall generate`: answer a prompt about a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmhall.cli.console import parse_output_path
from mmhall.cli.loading import loads_model
from mmhall.cli.messages import MessagesFile
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    import mmhall

_DESCRIBE = "Please describe this image in detail."


@loads_model
def generate(
    image: Annotated[
        Path | None, typer.Argument(help="Picture file; with --messages, a picture that they leave out.")
    ] = None,
    prompt: Annotated[str | None, typer.Argument(help=f"Prompt. By default: {_DESCRIBE}")] = None,
    messages: MessagesFile = None,
    model: Annotated[str, typer.Option(help="Model to load: embedded, a folder, or a hub id.")] = "embedded",
    strategy: Annotated[
        str, typer.Option(help='Strategy, such as vcd or "vcd(alpha=0.5)"; see: mmhall list strategies.')
    ] = "greedy",
    max_new_tokens: Annotated[int, typer.Option(help="Maximum number of tokens in the answer.")] = 128,
    num_beams: Annotated[
        int | None, typer.Option(help="Number of beams; 1: no beam search. By default, the strategy's own, mostly 1.")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Sample tokens instead of taking the most likely.")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature, with --sample. By default, 1.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --sample.")] = 0,
    tuned: Annotated[
        str | None,
        typer.Option(help='File with options tuned for the model, or "none". By default, the model\'s own.'),
    ] = None,
    heatmap: Annotated[
        Path | None,
        typer.Option(
            parser=parse_output_path,
            metavar="FILE",
            help="Write a picture of where the model looked for each content word.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --heatmap if it exists.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answer with its tokens, settings and cost.")
    ] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Answer a prompt about a picture, or messages with pictures.

    Example: mmhall generate kitchen.png "Is there a cup in the image?" --strategy vcd
    """
    import json
    from dataclasses import asdict

    import mmhall
    from mmhall.cli.console import check_picture_path, parse_tuned
    from mmhall.cli.messages import read_request
    from mmhall.generation import make_settings

    if heatmap is not None:
        check_picture_path(heatmap, force=force)
    if prompt is None and messages is None:
        prompt = _DESCRIBE
    images, question = read_request(image, prompt, messages)
    options = parse_tuned(tuned)
    chosen = mmhall.strategy(strategy)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    settings |= {"do_sample": sample, "temperature": temperature, "seed": seed}
    make_settings(settings)
    lvlm = mmhall.load(model, tuned=options, **loading.arguments())
    if heatmap is not None:
        trace = lvlm.trace(images, question, chosen, **settings)
        _save_heat_maps(trace, heatmap)
        print(json.dumps(asdict(trace.answer), ensure_ascii=False, indent=1) if as_json else trace.answer.text)
    elif as_json:
        print(json.dumps(asdict(lvlm.generate(images, question, chosen, **settings)), ensure_ascii=False, indent=1))
    else:
        for piece in lvlm.stream(images, question, chosen, **settings):
            print(piece, end="", flush=True)
        print()


def _save_heat_maps(trace: mmhall.Trace, file: Path) -> None:
    """Write the heat maps of all content words as one picture.

    Raises:
        ImageError: The file cannot be written.
    """
    from mmhall.errors import ImageError
    from mmhall.files import atomic_path

    try:
        with atomic_path(file) as scratch:
            trace.contact_sheet().save(scratch)
    except OSError as error:
        raise ImageError(f"{file}: cannot be written: {error.strerror or error}") from error
