"""The package's own source files, each read and walked once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"mmhall": "mmhall", "decoders": "mmhall.decoders", "benchmarks": "mmhall.benchmarks", "demo": "mmhall.demo"}


@dataclass(frozen=True)
class Source:
    """One file.

    Attributes:
        name: Of its module.
        path: Where it lies.
    """

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of its syntax tree, the module first."""
        return tuple(ast.walk(ast.parse(self.text)))

    def imports(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Each module that is imported, and the names that are taken from it."""
        for node in self.nodes:
            if isinstance(node, ast.ImportFrom) and node.module:
                yield node.module, tuple(alias.name for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, ()) for alias in node.names)

    def imports_at_once(self) -> Iterator[str]:
        """Each module that is imported when this one is, rather than inside of a function."""
        for node in self.nodes[0].body:  # type: ignore[attr-defined]
            if isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)


@cache
def sources() -> tuple[Source, ...]:
    """Return every module of the package."""
    found = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found.append(Source(".".join((package, *(p for p in parts if p != "__init__"))), path))
    return tuple(found)
