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


def run(folder, version, *programs):
    """Run programs where a package without a single name stands for transformers, each in a process of its own.

    Args:
        folder: Where they run.
        version: Which transformers is said to be there; None: none is.
        *programs: Python code, or what is written behind "mmhall" on a command line.

    Returns:
        Of each its exit code, its output, and its lines of errors.
    """
    if version is not None:
        (folder / "transformers").mkdir()
        (folder / "transformers" / "__init__.py").touch()
        told = folder / f"transformers-{version}.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: transformers\nVersion: {version}\n")
    else:
        hidden = "import sys, importlib.metadata as told\nsys.modules['transformers'] = None\n"
        hidden += "found = told.distribution\n"
        hidden += "def distribution(name):\n    if name == 'transformers': raise told.PackageNotFoundError(name)\n"
        hidden += "    return found(name)\ntold.distribution = distribution\n"
        (folder / "sitecustomize.py").write_text(hidden)
    environment = {k: v for k, v in os.environ.items() if k != versions.SKIP_CHECK}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    command = "sys.argv = {}; mmhall.cli.main()"
    codes = [one if "import" in one else command.format(["mmhall", *one.split()]) for one in programs]
    asked = [sys.executable, "-c", RUNNER, json.dumps(codes)]
    subprocess.run(asked, check=True, capture_output=True, env=environment, cwd=folder)
    return [
        (int((folder / f"{n}.code").read_text()), (folder / f"{n}.1").read_text(), (folder / f"{n}.2").read_text())
        for n in range(len(programs))
    ]


COMMANDS = (
    "show vhr --model embedded",
    "generate a.png",
    "bench chair --out run",
    "tune vhr",
    "choose a.png What?",
    "report .",
)


@pytest.mark.slow
@pytest.mark.parametrize(("version", "found"), [("9.0.0", "found 9.0.0"), (None, "not installed")])
def test_a_command_says_so_in_one_line(tmp_path, version, found):
    """Before anything is imported that such a version lacks; what needs no transformers works."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    asked = COMMANDS if version else COMMANDS[:1]
    *refused, python, (code, names, errors) = run(
        tmp_path, version, *asked, "import mmhall; mmhall.load", "list benchmarks"
    )
    for command, (code_of, _, told) in zip(asked, refused, strict=True):
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
