"""Registries: names of strategies, benchmarks and model families, mapped to lazily imported objects.

A name maps to "module:attribute"; mmhall's own modules are imported when the name is used. Other packages add names
through entry points of the registry's group. Their modules are imported when names are listed: a name that cannot be
used is left out, with a warning. A process adds classes of its own (`Registry.add`).

Modules of other packages are imported in a thread, with a timeout of half a minute. An import cannot be interrupted,
but the thread ends with the process. An import in a separate process could be ended, but would have to be repeated
here without a timeout. Code that never releases the GIL can still block.
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

from mmhall.errors import MmhallError, MmhallWarning, OptionError, PluginError, UnknownNameError

PATIENCE = 30.0  # seconds; timeout for the import of another package


def load_target(target: str) -> Any:
    """Import "module:attribute".

    Raises:
        PluginError: The import fails with any exception.
        MmhallError: The imported module raises it.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except MmhallError:
        raise
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise PluginError(
            f"{target}: cannot be loaded: {type(error).__name__}: {reason}; "
            "reinstall or repair the package it comes from"
        ) from error


_pending: dict[str, tuple[Future[Any], float]] = {}  # running imports of other packages, with their deadlines


def load_foreign(target: str) -> Any:
    """Import "module:attribute" of another package, with a timeout of half a minute.

    The import runs in its own thread. If it fails there, it is repeated in this thread, as some code runs in the main
    thread only.

    Raises:
        PluginError: The import fails or takes too long.
        MmhallError: The imported module raises it.
    """
    if target not in _pending:
        _pending[target] = Future(), monotonic() + PATIENCE
        Thread(target=_import_into, args=(_pending[target][0], target), name=f"import of {target}", daemon=True).start()
    loaded, deadline = _pending[target]
    try:
        return loaded.result(max(0.0, deadline - monotonic()))
    except PluginError:
        return load_target(target)
    except FutureTimeoutError:
        raise PluginError(
            f"{target}: cannot be loaded: its import has not ended after {PATIENCE:g} seconds; repair or remove the "
            "package it comes from"
        ) from None
    finally:
        if loaded.done():
            _pending.pop(target, None)


def _import_into(loaded: Future[Any], target: str) -> None:
    try:
        loaded.set_result(load_target(target))
    except BaseException as error:  # raised by `loaded.result`
        loaded.set_exception(error)


class Registry:
    """A table of names, extended by entry points of other packages."""

    def __init__(self, kind: str, own: str, group: str, base: str) -> None:
        """Create the registry; nothing is imported before a name is used.

        Args:
            kind: Kind of the names, such as "strategy".
            own: "module:attribute" of mmhall's own table, which maps names to "module:attribute".
            group: Entry point group for names of other packages.
            base: "module:attribute" of the base class of all objects of other packages.
        """
        self._kind, self._table, self._group, self._base = kind, own, group, base
        self._unusable: dict[str, str] = {}
        self._added: dict[str, type] = {}

    def add(self, kind: type) -> None:
        """Add a class of this process under its `name`; another class of the same name is replaced, as in a notebook.

        Raises:
            OptionError: It has no name, or one of mmhall's own.
        """
        name = getattr(kind, "name", None)
        if not isinstance(name, str) or not name.isidentifier():
            raise OptionError("register", f"{kind.__name__}.name", name, "a word, such as name: ClassVar[str] = 'mine'")
        if name in self._own:
            raise OptionError(
                "register", f"{kind.__name__}.name", name, f"another name: it is a {self._kind} of mmhall's"
            )
        self._added[name] = kind

    @property
    def _own(self) -> dict[str, str]:
        own: dict[str, str] = load_target(self._table)
        return own

    def names(self) -> list[str]:
        """List all usable names, mmhall's own first."""
        others = sorted(set(self._others()) - set(self._own) - set(self._added))
        return [*self._own, *self._added, *(name for name in others if self._usable(name))]

    def load(self, name: str) -> Any:
        """Import the object of a name.

        Raises:
            UnknownNameError: The name is not registered.
            PluginError: The object cannot be imported, or is not a subclass of the base class.
        """
        if name in self._added:
            return self._added[name]
        target = self.target(name)
        if name in self._own:
            return load_target(target)
        loaded = load_foreign(target)
        if not (isinstance(loaded, type) and issubclass(loaded, load_target(self._base))):
            raise PluginError(
                f"{target}: is not a {self._kind}: it must be a class derived from {self._base.replace(':', '.')}"
            )
        return loaded

    def target(self, name: str) -> str:
        """Return "module:attribute" of a name.

        Raises:
            UnknownNameError: The name is not registered.
        """
        if name in self._added:
            return f"{self._added[name].__module__}:{self._added[name].__qualname__}"
        if name in self._own:
            return self._own[name]
        point = self._others().get(name)
        if point is None:
            raise UnknownNameError(self._kind, name, self.names())
        return point.value

    def source(self, kind: type) -> dict[str, str] | None:
        """Return module, file digest and distribution of a class of another package; None for mmhall's own classes."""
        name = kind.__module__
        if name.partition(".")[0] == "mmhall":
            return None
        source, file = {"module": name}, getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            source["digest"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
        package = name.partition(".")[0]
        points = (point for point in self._others().values() if re.split(r"[.:]", point.value)[0] == package)
        point = next(points, None)
        if point is not None and point.dist is not None:
            source["distribution"] = f"{point.dist.name} {point.dist.version}"
        return source

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
