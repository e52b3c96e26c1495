"""Names to lazily imported objects: strategies, benchmarks, model families.

A name maps to "module:attribute"; nothing of ours is imported before the name is used. Other packages add names
through entry points of the registry's group. Those are imported once they are listed: what cannot be used is left out,
with a warning that names it.

The code of another package is imported in a thread, and given up after half a minute: an import cannot be broken off,
but a thread that runs on ends with the process. A process of its own could be ended, but what it has imported would
have to be imported once more here, unguarded. Nothing helps against code that never lets another thread run.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import warnings
from concurrent.futures import Future, TimeoutError as FutureTimeoutError
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

from mmhall.errors import MmhallError, MmhallWarning, PluginError, UnknownNameError

PATIENCE = 30.0  # seconds that another package's import may take


def load_target(target: str) -> Any:
    """Import "module:attribute".

    Raises:
        PluginError: It cannot be imported, whatever happens instead: the code is a stranger's.
        MmhallError: It refuses to be imported and says why.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except MmhallError:
        raise
    except (Exception, SystemExit) as error:
        told = " ".join(str(error).split()) or "no reason given"
        raise PluginError(
            f"{target}: cannot be loaded: {type(error).__name__}: {told}; reinstall or repair the package it comes from"
        ) from error


_begun: dict[str, tuple[Future[Any], float]] = {}  # imports of other packages that go on, and until when one waits


def load_foreign(target: str) -> Any:
    """Import "module:attribute" of another package, for half a minute at most.

    The import goes on in a thread of its own, as nothing else can be left alone; what fails there is tried here, since
    some code runs in the main thread only.

    Raises:
        PluginError: It cannot be imported, or takes longer.
        MmhallError: It refuses to be imported and says why.
    """
    if target not in _begun:
        _begun[target] = Future(), monotonic() + PATIENCE
        Thread(target=_fulfil, args=(_begun[target][0], target), name=f"import of {target}", daemon=True).start()
    loaded, until = _begun[target]
    try:
        return loaded.result(max(0.0, until - monotonic()))
    except PluginError:
        return load_target(target)
    except FutureTimeoutError:
        raise PluginError(
            f"{target}: cannot be loaded: its import has not ended after {PATIENCE:g} seconds; repair or remove the "
            "package it comes from"
        ) from None
    finally:
        if loaded.done():
            _begun.pop(target, None)


def _fulfil(loaded: Future[Any], target: str) -> None:
    try:
        loaded.set_result(load_target(target))
    except BaseException as error:  # raised where it is waited for
        loaded.set_exception(error)


class Registry:
    """A table of names, completed by entry points."""

    def __init__(self, kind: str, own: str, group: str, base: str) -> None:
        """Describe the table; nothing is imported before a name is asked for.

        Args:
            kind: What it names, such as "strategy".
            own: "module:attribute" of mmhall's own table of names to "module:attribute".
            group: The entry point group of other packages' names.
            base: "module:attribute" of the class that all of them derive from.
        """
        self._kind, self._table, self._group, self._base = kind, own, group, base
        self._unusable: dict[str, str] = {}

    @property
    def _own(self) -> dict[str, str]:
        own: dict[str, str] = load_target(self._table)
        return own

    def names(self) -> list[str]:
        """List every name that can be used, ours first."""
        others = sorted(set(self._others()) - set(self._own))
        return [*self._own, *(name for name in others if self._usable(name))]

    def load(self, name: str) -> Any:
        """Import what a name stands for.

        Raises:
            UnknownNameError: Nothing has that name.
            PluginError: It cannot be imported, or is something else.
        """
        target = self.target(name)
        if name in self._own:
            return load_target(target)
        loaded = load_foreign(target)
        if not (isinstance(loaded, type) and issubclass(loaded, load_target(self._base))):
            raise PluginError(
                f"{target}: is no {self._kind}: it must be a class derived from {self._base.replace(':', '.')}"
            )
        return loaded

    def target(self, name: str) -> str:
        """Return "module:attribute" of a name.

        Raises:
            UnknownNameError: Nothing has that name.
        """
        point = self._others().get(name)
        target = self._own.get(name) or (point and point.value)
        if target is None:
            raise UnknownNameError(self._kind, name, self.names())
        return target

    def source(self, kind: type) -> dict[str, str] | None:
        """Say which code of another package a class is: module, digest of its file, distribution; None: it is ours."""
        name = kind.__module__
        if name.partition(".")[0] == "mmhall":
            return None
        told, file = {"module": name}, getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            told["digest"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
        package = name.partition(".")[0]
        point = next((one for one in self._others().values() if re.split(r"[.:]", one.value)[0] == package), None)
        if point is not None and point.dist is not None:
            told["distribution"] = f"{point.dist.name} {point.dist.version}"
        return told

    def _usable(self, name: str) -> bool:
        target = self._others()[name].value
        if target not in self._unusable:
            try:
                self.load(name)
                self._unusable[target] = ""
            except MmhallError as error:
                self._unusable[target] = str(error)
                warnings.warn(f"{self._kind} {name!r} is left out: {error}", MmhallWarning, stacklevel=3)
        return not self._unusable[target]

    def _others(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self._group)}
