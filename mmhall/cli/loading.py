"""The flags that say how a model is loaded, the same for every command that loads one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from mmhall.load_options import LoadOptions, keyed

_PANEL = "How the model is loaded"
_FLAGS: dict[str, tuple[Any, Any, str]] = {
    "device": (str | None, None, "cpu, cuda, cuda:1, ...; by default a GPU when there is one."),
    "device_map": (str | None, None, 'Spread it over devices: auto, balanced, or JSON such as {"": "cpu"}.'),
    "dtype": (str | None, None, "Of the weights, such as float16; by default float32 on a CPU, else bfloat16."),
    "quantize": (str | None, None, "4bit or 8bit, by bitsandbytes."),
    "revision": (str | None, None, "Commit, tag or branch on the hub."),
    "processor": (list[str], [], "Option of the processor, KEY=VALUE, such as max_pixels=200704; repeatable."),
    "chat_template": (str | None, None, "Template to write prompts with: a Jinja text, or a file."),
    "trust_remote_code": (bool, False, "Let code that comes with the model run."),
}


def loads_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these flags; it gets what they say as its argument `loading`."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "loading"]
    flags = [_flag(name, *declared) for name, declared in _FLAGS.items()]

    @wraps(command)
    def run(**given: Any) -> None:
        said = {name: given.pop(name) for name in _FLAGS}
        command(**given, loading=LoadOptions(**{**said, "processor": keyed(said["processor"])}))

    run.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *flags)}
    return run


def _flag(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    """Declare a flag as Typer reads it; the model is the command's own."""
    decls = ("--trust-remote-code",) if kind is bool else ()
    annotation = Annotated[kind, typer.Option(*decls, help=text, rich_help_panel=_PANEL)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
