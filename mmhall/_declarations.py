"""Read what strategies and model families declare, without the libraries that they compute with.

A card, the options and the claims of a strategy need no torch, which takes seconds to import. Here, as documentation
generators do, torch and transformers are replaced by modules whose attributes are all one empty class. What is imported
meanwhile is forgotten at the end, so that nothing can compute with it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ABSENT = ("torch", "transformers", "tokenizers", "safetensors", "PIL", "scipy", "mmhall._transformers")


@contextmanager
def declarations() -> Iterator[None]:
    """Import modules of mmhall for what they declare; where torch is imported already, nothing is replaced."""
    if "torch" in sys.modules:
        yield
        return
    before, finder = dict(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name not in before and _is_in(name, "mmhall", *_ABSENT)]:
            module, (package, _, short) = sys.modules.pop(name), name.rpartition(".")
            if getattr(before.get(package), short, None) is module:
                delattr(before[package], short)


def _is_in(name: str, *packages: str) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


class _EmptyType(type):
    """The type of the empty class: also its attributes, items and results are empty classes; it decorates nothing."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty

    def __getitem__(cls, key: object) -> Any:
        return _Empty

    def __call__(cls, *values: Any, **options: Any) -> Any:
        decorates = len(values) == 1 and not options and callable(values[0])
        return values[0] if decorates else _Empty


class _Empty(metaclass=_EmptyType):
    """What stands for every class, function and constant of an absent library."""


class _EmptyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Empty


class _Finder(MetaPathFinder, Loader):
    """Finds empty modules for the absent libraries, before any other finder."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if _is_in(fullname, *_ABSENT) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""
