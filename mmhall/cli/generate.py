"""mmhall generate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmhall.cli.console import parse_output_path
from mmhall.cli.loading import loads_model
from mmhall.cli.messages import MessagesFile
from mmhall.models import LoadOptions

_DESCRIBE = "Please describe this image in detail."


@loads_model
def generate(
    image: Annotated[Path | None, typer.Argument(help="Picture file; of --messages, one that they leave out.")] = None,
    prompt: Annotated[str | None, typer.Argument(help=f"What to ask; by default: {_DESCRIBE}")] = None,
    messages: MessagesFile = None,
    model: Annotated[str, typer.Option(help="embedded, a folder, or a hub id.")] = "embedded",
    strategy: Annotated[
        str, typer.Option(help='Such as vcd or "vcd(alpha=0.5)"; see: mmhall list strategies.')
    ] = "greedy",
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens the answer may have.")] = 128,
    num_beams: Annotated[
        int | None, typer.Option(help="Beams of the search; 1: none; by default the strategy's own, mostly 1.")
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw tokens instead of taking the best.")] = False,
    temperature: Annotated[float | None, typer.Option(help="With --sample; 1 by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seeds the draws of --sample.")] = 0,
    tuned: Annotated[
        str | None,
        typer.Option(help='File of options tuned for the model, or "none"; by default where `mmhall tune` puts it.'),
    ] = None,
    heatmap: Annotated[
        Path | None,
        typer.Option(
            parser=parse_output_path,
            metavar="FILE",
            help="Draw where the model looked for each content word, into this picture.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the picture of --heatmap if it exists.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answer with its tokens, settings and cost.")
    ] = False,
    *,
    loading: LoadOptions,
) -> None:
    """Answer a prompt about a picture, or messages with pictures among them.

    Example: mmhall generate kitchen.png "Is there a cup in the image?" --strategy vcd
    """
    import json
    from dataclasses import asdict

    import mmhall
    from mmhall.cli.console import check_picture_path, parse_tuned
    from mmhall.cli.messages import asked
    from mmhall.errors import ImageError
    from mmhall.files import whole
    from mmhall.generation import make_settings

    if heatmap is not None:
        check_picture_path(heatmap, force=force)
    if prompt is None and messages is None:
        prompt = _DESCRIBE
    about, question = asked(image, prompt, messages)
    options = parse_tuned(tuned)
    chosen = mmhall.strategy(strategy)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    settings |= {"do_sample": sample, "temperature": temperature, "seed": seed}
    make_settings(settings)
    lvlm = mmhall.load(model, tuned=options, **loading.arguments())
    if heatmap is not None:
        trace = lvlm.trace(about, question, chosen, **settings)
        try:
            with whole(heatmap) as scratch:
                trace.contact_sheet().save(scratch)
        except OSError as error:
            raise ImageError(f"{heatmap}: cannot be written: {error.strerror or error}") from error
        print(json.dumps(asdict(trace.answer), ensure_ascii=False, indent=1) if as_json else trace.answer.text)
    elif as_json:
        print(json.dumps(asdict(lvlm.generate(about, question, chosen, **settings)), ensure_ascii=False, indent=1))
    else:
        for piece in lvlm.stream(about, question, chosen, **settings):
            print(piece, end="", flush=True)
        print()
