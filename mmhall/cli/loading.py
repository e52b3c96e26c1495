"""Flags for loading a model, shared by every command that loads one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

import typer

from mmhall.models import LoadOptions, parse_assignments

_PANEL = "How the model is loaded"
_FLAGS: dict[str, tuple[Any, Any, str]] = {
    "device": (str | None, None, "Device: cpu, cuda, cuda:1, ... By default, a GPU if there is one."),
    "device_map": (str | None, None, 'Spread the model over devices: auto, balanced, or JSON such as {"": "cpu"}.'),
    "dtype": (
        str | None,
        None,
        "Data type of the weights, such as float16. By default, float32 on a CPU, else bfloat16.",
    ),
    "quantize": (str | None, None, "Quantize by bitsandbytes: 4bit or 8bit."),
    "revision": (str | None, None, "Commit, tag or branch on the hub."),
    "processor": (list[str], [], "Option of the processor, KEY=VALUE, such as max_pixels=200704; repeatable."),
    "chat_template": (str | None, None, "Chat template: a Jinja text, or a file."),
    "trust_remote_code": (bool, False, "Run code that comes with the model."),
}
_ARTIFACTS = (
    str | None,
    None,
    'File or folder written by `mmhall fit`, or "none". By default, the model\'s own.',
)


def loads_model(command: Callable[..., None]) -> Callable[..., None]:
    """Add these flags to a command; it gets their values as its argument `loading`."""
    return _with_flags(command, {**_FLAGS, "artifacts": _ARTIFACTS})


def loads_plain_model(command: Callable[..., None]) -> Callable[..., None]:
    """Add these flags, but not --artifacts, to a command that uses no artifacts."""
    return _with_flags(command, _FLAGS, artifacts=False)


def _with_flags(
    command: Callable[..., None], declared: Mapping[str, tuple[Any, Any, str]], **fixed: Any
) -> Callable[..., None]:
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "loading"]
    flags = [_flag(name, *declaration) for name, declaration in declared.items()]

    @wraps(command)
    def run(**values: Any) -> None:
        options = {name: values.pop(name) for name in declared}
        options["processor"] = parse_assignments(options["processor"])
        command(**values, loading=LoadOptions(**{**options, **fixed}))

    run.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *flags)}
    return run


def _flag(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    """Return a flag as a parameter for Typer."""
    decls = ("--trust-remote-code",) if kind is bool else ()
    annotation = Annotated[kind, typer.Option(*decls, help=text, rich_help_panel=_PANEL)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
