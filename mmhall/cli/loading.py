"""Flags for loading a model, shared by every command that loads one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
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
    "model_arg": (
        list[str],
        [],
        "Option of transformers' from_pretrained, KEY=VALUE, such as attn_implementation=sdpa; repeatable.",
    ),
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
    def load_options(values: dict[str, Any]) -> LoadOptions:
        for name in ("processor", "model_arg"):
            values[name] = parse_assignments(values[name], option=name)
        return LoadOptions(**values, **fixed)

    flags = [_flag(name, *declaration) for name, declaration in declared.items()]
    return add_flags(command, flags, "loading", load_options)


def add_flags(
    command: Callable[..., None],
    flags: Sequence[inspect.Parameter],
    argument: str,
    make: Callable[[dict[str, Any]], Any],
) -> Callable[..., None]:
    """Add flags to a command.

    Args:
        command: The command.
        flags: The flags, as parameters for Typer.
        argument: The command's argument that gets what is made of them; no flag.
        make: Makes it of the flags' values by name.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != argument]

    @wraps(command)
    def run(**values: Any) -> None:
        given = {flag.name: values.pop(flag.name) for flag in flags}
        command(**values, **{argument: make(given)})

    run.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *flags)}
    return run


def _flag(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    """Return a flag as a parameter for Typer."""
    decls = ("--trust-remote-code",) if kind is bool else ()
    annotation = Annotated[kind, typer.Option(*decls, help=text, rich_help_panel=_PANEL)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
