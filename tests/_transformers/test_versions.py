"""Versions that were not tested are refused before anything else can fail."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from mmhall._transformers import versions
from mmhall.errors import VersionError
from tests.sources import ROOT, sources

PROMISED = {"transformers", "transformers.generation"}  # submodules whose names the documentation gives


@pytest.mark.parametrize("version", [versions.OLDEST, versions.NEWEST, f"{versions.NEWEST}.post1"])
def test_tested_versions_pass(version, monkeypatch):
    monkeypatch.delenv(versions.SKIP_CHECK, raising=False)
    monkeypatch.setattr(versions, "version", lambda name: version)
    versions.check_version()


@pytest.mark.parametrize(
    "version", ["4.57.1", "5.16.1", f"{versions.UNTESTED}.0.dev0", f"{versions.UNTESTED}.0", "6.0.0"]
)
def test_others_are_refused_with_what_to_do(version, monkeypatch):
    monkeypatch.delenv(versions.SKIP_CHECK, raising=False)
    monkeypatch.setattr(versions, "version", lambda name: version)
    with pytest.raises(VersionError) as caught:
        versions.check_version()
    assert f"found {version}" in str(caught.value)
    assert f'pip install "transformers>={versions.OLDEST},<{versions.UNTESTED}"' in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(versions.SKIP_CHECK, "1")
    versions.check_version()


RUNNER = """
import json, os, sys, traceback
import scipy.stats, torch  # once for all
import mmhall.cli
for number, program in enumerate(json.loads(sys.argv[1])):
    if os.fork() == 0:
        for stream in (1, 2):
            os.dup2(os.open(f"{number}.{stream}", os.O_CREAT | os.O_WRONLY), stream)
        try:
            exec(program)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    with open(f"{number}.code", "w") as file:
        file.write(str(code))
"""
OTHER = "9.0.0"
FOUND = f"sys.path.insert(0, {OTHER!r})\n"
"""A package without a single name stands for transformers, of another version."""
HIDDEN = """
import importlib.metadata as told
sys.modules['transformers'] = None
found = told.distribution
def distribution(name):
    if name == 'transformers': raise told.PackageNotFoundError(name)
    return found(name)
told.distribution = distribution
"""
"""No transformers is there."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the programs do with each kind of transformers: of each its exit code, its output, its lines of errors.

    Each runs in a process of its own, a fork of one that has imported torch.
    """
    folder = tmp_path_factory.mktemp("versions")
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    (folder / OTHER / "transformers").mkdir(parents=True)
    (folder / OTHER / "transformers" / "__init__.py").touch()
    metadata = folder / OTHER / f"transformers-{OTHER}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: transformers\nVersion: {OTHER}\n")
    programs = []
    for first, told in PROGRAMS.items():
        for one in told:
            arguments = ["mmhall", *one.split()]
            programs.append(first + (one if "import" in one else f"sys.argv = {arguments}; mmhall.cli.main()"))
    environment = {k: v for k, v in os.environ.items() if k != versions.SKIP_CHECK}
    environment["PYTHONPATH"] = str(ROOT)
    asked = [sys.executable, "-c", RUNNER, json.dumps(programs)]
    subprocess.run(asked, check=True, capture_output=True, env=environment, cwd=folder)
    results = [
        (int((folder / f"{n}.code").read_text()), (folder / f"{n}.1").read_text(), (folder / f"{n}.2").read_text())
        for n in range(len(programs))
    ]
    first = len(PROGRAMS[FOUND])
    return {FOUND: results[:first], HIDDEN: results[first:]}


COMMANDS = (
    "show vhr --model embedded",
    "generate a.png",
    "bench chair --out run",
    "tune vhr",
    "choose a.png What?",
)
PYTHON, WORKS = "import mmhall; mmhall.load", "list benchmarks"
PROGRAMS = {FOUND: (*COMMANDS, PYTHON, WORKS), HIDDEN: (COMMANDS[0], PYTHON, WORKS)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "found"), [(FOUND, f"found {OTHER}"), (HIDDEN, "not installed")], ids=["found", "hidden"]
)
def test_a_command_says_so_in_one_line(run, first, found):
    """Before anything is imported that such a version lacks; what needs no transformers works."""
    *refused, python, (code, names, errors) = run[first]
    for command, (code_of, _, told) in zip(PROGRAMS[first], refused, strict=False):
        assert (code_of, len(told.strip().splitlines())) == (2, 1), (command, told)
        assert told.startswith(f"mmhall: mmhall needs transformers >= {versions.OLDEST}"), command
        assert found in told, command
    assert python[0] == 1
    assert python[2].strip().splitlines()[-1].startswith("mmhall.errors.VersionError: mmhall needs transformers")
    assert code == 0, errors
    assert "pope" in names


def test_the_bounds_are_those_of_the_package():
    asked = re.search(r'"transformers>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert asked is not None
    assert versions.OLDEST in (asked[1], f"{asked[1]}.0")
    assert asked[2] == versions.UNTESTED
    pinned = re.search(r"(?m)^transformers==(\S+)", (ROOT / "constraints.txt").read_text())
    assert pinned is not None
    assert pinned[1] == versions.NEWEST


INSIDE = {
    "past_key_values",
    "prepare_inputs_for_generation",
    "_update_model_kwargs_for_generation",
    "_attn_implementation",
    "_is_user_defined",
    "pack_image_features",
    "rope_index",
}


def names(source):
    """Every attribute, keyword and string that stands for a name."""
    for node in source.nodes:
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword):
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_only_one_package_looks_inside_transformers():
    for source in sources():
        if source.name.startswith("mmhall._transformers"):
            continue
        assert not INSIDE & set(names(source)), source.path
        for module, taken in source.imports():
            if module.split(".")[0] == "transformers":
                assert module in PROMISED, f"{source.path} imports {module}"
                assert not [name for name in taken if name.startswith("_")], source.path
