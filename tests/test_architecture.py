"""The architecture: which packages import which, what is internal, what packages export, and how large parts may be."""

from __future__ import annotations

import ast
import importlib

from mmhall.decoders import STRATEGIES
from tests.sources import ROOT, sources

FLOORS = (  # each imports from those before it only; modules of mmhall that are named nowhere here stand on the ground
    ("_transformers",),
    ("attention",),
    ("adapters",),
    ("models",),
    ("strategies",),
    ("generation",),
    ("analysis", "closed"),
    ("lvlm", "clip", "detection", "similarity"),
    ("loading", "model_check", "results"),
    ("captioning", "comparison", "fitting"),
    ("decoders",),
    ("benchmarks", "lmms_eval"),
    ("demo",),
    ("cli",),
    ("__main__",),
)
PACKAGES = ("objects", "attention", "adapters", "models", "strategies", "generation", "analysis", "closed")


def room(name):
    """The module or package right under `mmhall` that a module belongs to."""
    return [*name.split("."), ""][1]


def imported():
    """Pairs of a module and one that it imports, also inside functions, and for types only."""
    for source in sources():
        for module, names in source.imports():
            if module == "mmhall":
                yield from ((source.name, f"mmhall.{name}") for name in names)
            elif module.startswith("mmhall."):
                yield source.name, module
                yield from ((source.name, f"{module}.{name}") for name in names if name.startswith("_"))


def test_imports_point_one_way():
    floor = {one: height for height, rooms in enumerate(FLOORS, 1) for one in rooms}
    upward = [
        f"{name} imports {other}"
        for name, other in imported()
        if name != "mmhall"
        and room(name) != room(other)
        and floor.get(room(other), 0) >= max(floor.get(room(name), 0), 1)
    ]
    assert not upward, upward


def test_modules_with_an_underscore_are_imported_by_their_own_package_only():
    private = [
        f"{name} imports {other}"
        for name, other in imported()
        if "._" in other.removeprefix("mmhall._") and not f"{name}.".startswith(other.rpartition("._")[0] + ".")
    ]
    assert not private, private


def test_packages_export_what_they_list():
    for package in PACKAGES:
        module = importlib.import_module(f"mmhall.{package}")
        tree = ast.parse((ROOT / "mmhall" / package / "__init__.py").read_text(encoding="utf-8"))
        listed = {
            alias.name
            for block in tree.body
            if isinstance(block, ast.If)
            for node in block.body
            for alias in node.names
        }
        assert listed == set(module.__all__), package
        for name in module.__all__:
            assert getattr(module, name) is not None
        assert not hasattr(module, "nothing")


def test_no_strategy_names_a_family_and_no_adapter_a_strategy():
    """Words of string constants and names in the code, docstrings and what papers give for single models aside."""

    def words(source):
        aside = {
            id(part)
            for kind in source.nodes
            if isinstance(kind, ast.ClassDef)
            for given in kind.body
            if getattr(getattr(given, "target", None), "id", "") == "published"
            for part in ast.walk(given)
        }
        docs = {
            ast.get_docstring(n, clean=False)
            for n in source.nodes
            if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))
        }
        told = " ".join(
            n.value if isinstance(n, ast.Constant) else n.id
            for n in source.nodes
            if id(n) not in aside
            and (
                isinstance(n, ast.Name)
                or (isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value not in docs)
            )
        )
        return told.lower()

    for source in sources():
        if source.name.startswith("mmhall.decoders"):
            found = [family for family in ("llava", "qwen", "internvl", "gemma") if family in words(source)]
            assert not found, source.path
        elif source.name.startswith("mmhall.adapters"):
            names = set(STRATEGIES.names()) - {"only"}  # which is a word of messages, too
            assert not set(words(source).split()) & names, source.path


def statements(function):
    """Lines of a function's body, its docstring aside."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_no_part_is_too_large():
    """Files: 350 lines in the core, 500 elsewhere. Classes: 25 methods. Functions: 50 lines."""
    large = []
    for source in sources():
        lines, core = len(source.text.splitlines()), source.path.is_relative_to(ROOT / "mmhall")
        if lines > (350 if core else 500):
            large.append(f"{source.name}: {lines} lines")
        for node in source.nodes:
            if isinstance(node, ast.FunctionDef) and statements(node) > 50:
                large.append(f"{source.name}.{node.name}: {statements(node)} lines")
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(part, ast.FunctionDef) for part in node.body)
                if methods > 25:
                    large.append(f"{source.name}.{node.name}: {methods} methods")
    assert not large, large
