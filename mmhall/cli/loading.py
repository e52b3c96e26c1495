"""The flags that say how a model is loaded, the same for every command that loads one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

import typer

from mmhall.models import LoadOptions, parse_assignments

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
_ARTIFACTS = (
    str | None,
    None,
    'File or folder that `mmhall fit` wrote, or "none"; by default where it puts them with --apply.',
)


def loads_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these flags; it gets what they say as its argument `loading`."""
    return _with_flags(command, {**_FLAGS, "artifacts": _ARTIFACTS})


def loads_plain_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give these flags to a command that uses no strategy: no artifact is looked for."""
    return _with_flags(command, _FLAGS, artifacts=False)


def _with_flags(
    command: Callable[..., None], declared: Mapping[str, tuple[Any, Any, str]], **fixed: Any
) -> Callable[..., None]:
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "loading"]
    flags = [_flag(name, *told) for name, told in declared.items()]

    @wraps(command)
    def run(**given: Any) -> None:
        said = {name: given.pop(name) for name in declared}
        command(**given, loading=LoadOptions(**{**said, **fixed, "processor": parse_assignments(said["processor"])}))

    run.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *flags)}
    return run


def _flag(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    """Declare a flag as Typer reads it; the model is the command's own."""
    decls = ("--trust-remote-code",) if kind is bool else ()
    annotation = Annotated[kind, typer.Option(*decls, help=text, rich_help_panel=_PANEL)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
