"""Which changes are drawn, and which test files should notice a change of a module."""

from __future__ import annotations

import ast
import itertools
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path

from tests.mutants.operators import Mutation, mutations
from tests.mutants.trees import Case


def modules(root: Path, place: str) -> list[str]:
    """List the modules at a path of the tree, or that fit a pattern."""
    found = [file for path in root.glob(place) for file in (path.rglob("*.py") if path.is_dir() else [path])]
    return sorted({file.relative_to(root).as_posix() for file in found})


def draw(root: Path, files: list[str], count: int, seed: int) -> list[Mutation]:
    """Draw changes evenly over files, and in a file evenly over operators.

    A file's draws depend on the seed and on its text, not on its name.
    """
    queues = [_shuffled(name, (root / name).read_text(), seed) for name in files]
    random.Random(seed).shuffle(queues)
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return list(itertools.islice((made for made in rounds if made and made.changes), count))


def _shuffled(name: str, text: str, seed: int) -> list[Mutation]:
    """Order a file's changes: operators take turns."""
    chance = random.Random(f"{seed} {text}")
    kinds: dict[str, list[Mutation]] = {}
    for mutation in mutations(name, text):
        kinds.setdefault(mutation.operator, []).append(mutation)
    queues = list(kinds.values())
    for queue in [queues, *queues]:
        chance.shuffle(queue)  # type: ignore[arg-type]
    return [mutation for turn in itertools.zip_longest(*queues) for mutation in turn if mutation]


@cache
def files_for(root: Path, file: str, wide: bool = False) -> list[tuple[str, ...]]:
    """Group the test files that should notice a change of a module, the closest first.

    Those named after it or importing it; the others of the folder of tests that stands where the module does, those
    that import its package first; if `wide`, all others.
    """
    parts = Path(file).with_suffix("").parts
    parts = parts if parts[0] == "mmhall" else ("mmhall", *parts)
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    module, package = ".".join(parts), ".".join(parts[:-1])
    folder = _folder(root, parts[1:-1])
    near = set(folder.rglob("test_*.py") if folder.name != "tests" else folder.glob("test_*.py"))
    names = {module, *_exported(root, package, module)}
    groups: list[list[tuple[int, str]]] = [[], [], []]
    for test in sorted(root.glob("tests/**/test_*.py")):
        imported, name = _imports(test), test.relative_to(root).as_posix()
        if test.stem == f"test_{parts[-1].lstrip('_')}":
            groups[0].append((0 if test in near else 2, name))
        elif names & imported:
            groups[0].append((1 if test in near else 2, name))
        elif test in near:
            groups[1].append((int(not any(found.startswith(package) for found in imported)), name))
        elif wide:
            groups[2].append((0, name))
    return [tuple(name for _, name in sorted(group)) for group in groups if group]


def _exported(root: Path, package: str, module: str) -> set[str]:
    """Return the names that a package offers of one of its modules."""
    parts = package.split(".")
    offers = [root.joinpath(*parts[skipped:], "__init__.py") for skipped in (0, 1)]
    trees = [ast.parse(path.read_text()) for path in offers if path.is_file()]
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {f"{package}.{alias.name}" for node in found if node.module == module for alias in node.names}


def _folder(root: Path, parts: tuple[str, ...]) -> Path:
    """Return the deepest folder of tests for a package."""
    for depth in range(len(parts), 0, -1):
        if (root / "tests").joinpath(*parts[:depth]).is_dir():
            return (root / "tests").joinpath(*parts[:depth])
    return root / "tests"


@cache
def _imports(test: Path) -> frozenset[str]:
    """Return the modules (and names in them) that a test file imports, or names in a text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(test.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"mmhall(?:\.\w+)+", node.value))
    return frozenset(found)


def chosen(mutation: Mutation, tests: list[Case], files: tuple[str, ...], seconds: float) -> list[Case]:
    """Choose the tests that enter the function that is changed, grouped by file: as many as fit in a time.

    One case of each test comes before a second one of any. What stands outside functions is run at import: for that,
    those that enter any function of its class or file, and all tests of the closest files. A function that remembers
    what it has returned is entered once a process, and may be by any test that enters a function of its file.
    """
    place = f"{mutation.file} {mutation.function}".strip()
    entering = [test for test in tests if place in test.enters]
    name = mutation.function.split(".")[-1]
    if re.search(rf"@\w*cache\b[^\n]*\n\s*def {name}\b", mutation.source):
        entering = [test for test in tests if any(one.startswith(f"{mutation.file} ") for one in test.enters)]
    if not entering and not re.search(rf"\bdef {name}\b", mutation.source):
        within = f"{place}." if mutation.function else f"{mutation.file} "
        closest = files[:3]
        entering = [t for t in tests if t.file in closest or any(name.startswith(within) for name in t.enters)]
    seen: Counter[str] = Counter()
    turns = []
    for test in sorted(entering, key=lambda test: test.seconds):
        function = test.name.split("[")[0]
        turns.append((seen[function], test.seconds, test))
        seen[function] += 1
    order = [test for _, _, test in sorted(turns, key=lambda turn: turn[:2])]
    totals = itertools.accumulate(test.seconds for test in order)
    kept = [test for test, total in zip(order, totals, strict=True) if total <= seconds] or order[:1]
    return sorted(kept, key=lambda test: (files.index(test.file), test.seconds))
