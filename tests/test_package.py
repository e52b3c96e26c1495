"""What users rely on before they have read anything: names, imports, packaging, the way imports point."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import mmhall
from mmhall.decoders import STRATEGIES

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"mmhall": "mmhall", "decoders": "mmhall.decoders", "benchmarks": "mmhall.benchmarks", "demo": "mmhall.demo"}


def modules():
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *(p for p in parts if p != "__init__"))), path


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_importing_mmhall_imports_no_torch():
    done = run("import sys, mmhall; print([m for m in ('torch', 'transformers', 'numpy', 'PIL') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_public_names_exist():
    for name in mmhall.__all__:
        assert getattr(mmhall, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mmhall.nothing


@pytest.mark.parametrize("name", ["decoders", "benchmarks", "demo"])
def test_a_root_folder_cannot_be_imported_under_a_second_name(name):
    done = run(f"import {name}")
    assert f"import mmhall.{name}, not {name}" in done.stderr


@pytest.mark.skipif(tomllib is None, reason="tomllib comes with Python 3.11")
def test_the_package_list_is_complete():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {name for name, path in modules() if path.name == "__init__.py"}
    assert sorted(listed) == sorted(found)


@pytest.mark.parametrize(
    ("name", "path"), [pytest.param(n, p, id=n) for n, p in modules() if not n.endswith("__main__")]
)
def test_every_module_imports_and_its_examples_hold(name, path):
    if name == "mmhall.lmms_eval.model" and importlib.util.find_spec("lmms_eval") is None:
        pytest.skip("it is what lmms-eval imports")
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    assert doctest.testmod(module).failed == 0


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_"))
            if node.module == "mmhall":
                yield from (f"mmhall.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


FLOORS = (  # each imports from those before it only; modules of mmhall that are named nowhere here stand on the ground
    ("_transformers",),
    ("attention",),
    ("adapters",),
    ("models",),
    ("strategies",),
    ("generation",),
    ("analysis", "closed"),
    ("lvlm", "clip"),
    ("loading", "model_check", "fitting", "results"),
    ("decoders",),
    ("benchmarks", "lmms_eval"),
    ("demo",),
    ("cli",),
    ("__main__",),
)


def room(name):
    """The module or package right under `mmhall` that a module belongs to."""
    return [*name.split("."), ""][1]


def test_imports_point_one_way():
    """Also those inside functions, and those for types only."""
    floor = {one: height for height, rooms in enumerate(FLOORS, 1) for one in rooms}
    upward = [
        f"{name} imports {other}"
        for name, path in modules()
        for other in imported(path)
        if other.startswith("mmhall.")
        and room(name) != room(other)
        and name != "mmhall"
        and floor.get(room(other), 0) >= max(floor.get(room(name), 0), 1)
    ]
    assert not upward, upward


def test_modules_with_an_underscore_are_imported_by_their_own_package_only():
    private = [
        f"{name} imports {other}"
        for name, path in modules()
        for other in imported(path)
        if other.startswith("mmhall.")
        and any(part.startswith("_") for part in other.split(".")[2:])
        and not (name + ".").startswith(other.rpartition("._")[0] + ".")
        and not other.startswith("mmhall._")
    ]
    assert not private, private


def test_every_public_name_of_a_package_exists():
    for package in ("attention", "adapters", "models", "strategies", "generation", "analysis", "closed"):
        module = importlib.import_module(f"mmhall.{package}")
        tree = ast.parse((ROOT / "mmhall" / package / "__init__.py").read_text())
        typed = {
            alias.name
            for block in tree.body
            if isinstance(block, ast.If)
            for node in block.body
            for alias in node.names
        }
        assert typed == set(module.__all__), package
        for name in module.__all__:
            assert getattr(module, name) is not None
        assert not hasattr(module, "nothing")


def test_no_strategy_names_a_family_and_no_adapter_a_strategy():
    """Words of string constants and names in the code, docstrings and what papers give for single models aside."""

    def words(path):
        tree = ast.parse(path.read_text())
        for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            kind.body = [part for part in kind.body if getattr(getattr(part, "target", None), "id", "") != "published"]
        docs = {
            ast.get_docstring(n, clean=False)
            for n in ast.walk(tree)
            if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))
        }
        told = " ".join(
            n.value if isinstance(n, ast.Constant) else n.id
            for n in ast.walk(tree)
            if isinstance(n, ast.Name)
            or (isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value not in docs)
        )
        return told.lower()

    for path in (ROOT / "decoders").glob("*.py"):
        assert not any(family in words(path) for family in ("llava", "qwen", "internvl", "gemma")), path
    for path in (ROOT / "mmhall" / "adapters").glob("*.py"):
        assert not any(name in words(path).split() for name in STRATEGIES.names()), path


@pytest.mark.parametrize("path", [p for _, p in modules()], ids=str)
def test_no_file_is_too_long(path):
    assert len(path.read_text().splitlines()) <= 500


def test_nothing_unpickles_or_reaches_for_the_network():
    for name, path in modules():
        if name.startswith("mmhall.benchmarks.scenes.train"):
            continue
        text = path.read_text()
        assert "import pickle" not in text
        assert "torch.load" not in text
        assert "import requests" not in text
        assert "urllib" not in text or name == "mmhall.benchmarks.run.endpoint"  # judges, where a user names one


def test_the_version_stands_in_one_place():
    assert importlib.util.find_spec("mmhall") is not None
    assert importlib.metadata.version("mmhall") == mmhall.__version__
