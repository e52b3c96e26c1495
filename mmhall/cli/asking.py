"""Flags that say what a run asks and where it is answered: made from `Config`, whose docstring is their help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

import typer

from mmhall.benchmarks.run.config import ALL, WHERE, Config
from mmhall.cli.loading import add_flags
from mmhall.options import option_helps, rules

_PANEL = "Where the run is answered"
_REPEATABLE = ("strategies", "data", "images")
_DECLS = {"strategies": "--strategy", "every": "--all"}
_NO_FLAGS = ("benchmarks", "loading")  # an argument, and flags of their own


def asks_run(command: Callable[..., None]) -> Callable[..., None]:
    """Add flags for every word of a run to a command; it gets those that were given as its argument `asked`."""
    return _with_words(command, tuple(each.name for each in fields(Config) if each.name not in _NO_FLAGS))


def asks_where(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags that say where a run is answered; as `asks_run`."""
    return _with_words(command, WHERE)


def _with_words(command: Callable[..., None], names: tuple[str, ...]) -> Callable[..., None]:
    def asked(values: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in values.items() if value is not False and value not in (None, [])}
        return {ALL if name == "every" else name: value for name, value in given.items()}

    return add_flags(command, [_flag(name) for name in names], "asked", asked)


def _flag(name: str) -> inspect.Parameter:
    """Return a flag as a parameter for Typer; its default says that it was not given."""
    rule, text = rules(Config).get(name), option_helps(Config)[name]
    kind: Any
    default: Any
    if name in _REPEATABLE:
        kind, default = list[str], list[str]()
    elif rule is None:
        kind, default = str | None, None
    elif isinstance(rule.general, bool):
        kind, default = bool, False
    else:
        kind, default = type(rule.general) | None, None
        text += "" if rule.by_model else f" By default, {rule.general}."
    decls, panel = [_DECLS[name]] if name in _DECLS else [], _PANEL if name in WHERE else None
    annotation = Annotated[kind, typer.Option(*decls, help=text, rich_help_panel=panel)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
