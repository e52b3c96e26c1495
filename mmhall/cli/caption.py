"""The command `mmhall caption`: answer a prompt about every picture of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmhall.cli.console import parse_output_path
from mmhall.cli.loading import loads_model
from mmhall.models import LoadOptions

_DESCRIBE = "Please describe this image in detail."


@loads_model
def caption(
    pictures: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of pictures; its subfolders are read, too.")],
    out: Annotated[
        Path,
        typer.Option(
            parser=parse_output_path,
            metavar="FILE.jsonl",
            help="File to write, a line for each picture and strategy; the same command continues a stopped one.",
        ),
    ],
    prompt: Annotated[str, typer.Option(help="Prompt.")] = _DESCRIBE,
    model: Annotated[str, typer.Option(help="Model to load: embedded, a folder, or a hub id.")] = "embedded",
    strategy: Annotated[list[str], typer.Option(help="Strategy; repeatable.")] = ["greedy"],  # noqa: B006
    batch_size: Annotated[int, typer.Option(help="Number of pictures to decode together.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum number of tokens in an answer.")] = 128,
    tuned: Annotated[
        str | None,
        typer.Option(help='File with options tuned for the model, or "none". By default, the model\'s own.'),
    ] = None,
    *,
    loading: LoadOptions,
) -> None:
    """Answer a prompt about every picture of a folder; no annotations are needed.

    A picture that cannot be read is named in its line with the error, and the others go on.

    Example: mmhall caption photos --strategy greedy --strategy vcd --out answers.jsonl
    """
    import mmhall
    from mmhall.captioning import Captioning, find_pictures, printed
    from mmhall.cli.console import parse_tuned
    from mmhall.cli.picture_data import check_writable
    from mmhall.errors import OptionError
    from mmhall.generation import make_settings
    from mmhall.model_check import check_model

    names = find_pictures(pictures)
    methods = {str(built): built for built in map(mmhall.strategy, strategy)}
    if len(methods) < len(strategy):
        raise OptionError("caption", "strategy", strategy, "each named once")
    if batch_size < 1:
        raise OptionError("caption", "batch_size", batch_size, "an integer >= 1")
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens}
    make_settings(dict(settings))
    if not prompt.strip() or printed(prompt) != prompt:
        raise OptionError("caption", "prompt", prompt, "a text" if not prompt.strip() else "a text in UTF-8")
    check_writable(out)
    options = parse_tuned(tuned)
    check_model(model, options, loading)
    lvlm = mmhall.load(model, tuned=options, **loading.arguments())
    _answer(Captioning(lvlm, pictures, names, prompt, methods, out, settings), batch_size)


def _answer(captioning: Any, batch_size: int) -> None:
    """Ask what the file does not hold yet, with progress; Ctrl-C leaves a file that can be continued."""
    from mmhall.captioning import printed
    from mmhall.progress import progress

    asked = {(printed(name), strategy) for name in captioning.names for strategy in captioning.strategies}
    done = captioning.resume() & asked
    answered, failures = len(done), dict[str, str]()
    with progress("answers", len(asked)) as advance:
        advance(len(done))
        try:
            for lines in captioning.answer(done, batch_size):
                failures |= {line["image"]: line["error"] for line in lines if "error" in line}
                answered += sum("error" not in line for line in lines)
                advance(len(lines))
        except KeyboardInterrupt:
            kept = f"{answered} of {len(asked)} answers are kept in {captioning.out}"
            typer.echo(f"mmhall: stopped; {kept}, the same command goes on from there", err=True)
            raise typer.Exit(2) from None
    typer.echo(f"{captioning.out} has {answered} of {len(asked)} answers", err=True)
    for name, reason in list(failures.items())[:3]:
        typer.echo(f"no answer to {name}: {reason}", err=True)
    if len(failures) > 3:
        typer.echo(f"and to {len(failures) - 3} more pictures; their lines name the reason", err=True)
