"""Names to lazily imported objects: strategies, benchmarks, model families.

A name maps to "module:attribute"; nothing is imported before the name is used. Other packages add
names through entry points of the registry's group.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from mmhall.errors import PluginError, UnknownNameError


def load_target(target: str) -> Any:
    """Import "module:attribute".

    Raises:
        PluginError: It cannot be imported.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"{target}: cannot be loaded: {error}; reinstall or repair the package it comes from"
        ) from error


class Registry:
    """A table of names, completed by entry points."""

    def __init__(self, kind: str, own: Mapping[str, str], group: str) -> None:
        """Say what kind of thing it names, our own names, and the entry point group."""
        self._kind, self._own, self._group = kind, dict(own), group

    def names(self) -> list[str]:
        """List every name, ours first."""
        return [*self._own, *sorted(set(self._others()) - set(self._own))]

    def load(self, name: str) -> Any:
        """Import what a name stands for.

        Raises:
            UnknownNameError: Nothing has that name.
            PluginError: It cannot be imported.
        """
        return load_target(self.target(name))

    def target(self, name: str) -> str:
        """Return "module:attribute" of a name.

        Raises:
            UnknownNameError: Nothing has that name.
        """
        target = self._own.get(name) or self._others().get(name)
        if target is None:
            raise UnknownNameError(self._kind, name, self.names())
        return target

    def _others(self) -> dict[str, str]:
        return {point.name: point.value for point in entry_points(group=self._group)}
