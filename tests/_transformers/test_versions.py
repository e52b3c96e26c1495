"""Versions that were not tested are refused before anything else can fail."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmhall._transformers import versions
from mmhall.errors import VersionError

ROOT = Path(__file__).resolve().parent.parent.parent
PROMISED = {"transformers", "transformers.generation"}  # submodules whose names the documentation gives


@pytest.mark.parametrize("version", ["5.17.0", "5.24.0", "5.24.7"])
def test_tested_versions_pass(version, monkeypatch):
    monkeypatch.setattr(versions, "version", lambda name: version)
    versions.check_version()


@pytest.mark.parametrize("version", ["4.57.1", "5.16.1", "5.25.0.dev0", "5.25.0", "6.0.0"])
def test_others_are_refused_with_what_to_do(version, monkeypatch):
    monkeypatch.delenv(versions.ANY, raising=False)
    monkeypatch.setattr(versions, "version", lambda name: version)
    with pytest.raises(VersionError) as caught:
        versions.check_version()
    assert f"found {version}" in str(caught.value)
    assert f'pip install "transformers>={versions.OLDEST},<{versions.BEYOND}"' in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(versions.ANY, "1")
    versions.check_version()


FAKED = """
import importlib.metadata as metadata
told = metadata.version
metadata.version = lambda name: "{version}" if name == "transformers" else told(name)
"""


def run(tmp_path, version, *command):
    """Run a command where the version of transformers is told otherwise."""
    (tmp_path / "sitecustomize.py").write_text(FAKED.format(version=version))
    environment = {k: v for k, v in os.environ.items() if k != versions.ANY}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=tmp_path)


@pytest.mark.parametrize("version", ["4.40.0", "5.99.0"])
def test_a_command_says_so_in_one_line(tmp_path, version):
    done = run(tmp_path, version, "-m", "mmhall", "show", "vhr", "--model", "embedded")
    assert done.returncode == 2
    assert done.stderr.startswith("mmhall: mmhall needs transformers >= 5.17.0")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("code", ["import mmhall; mmhall.load", "import mmhall.lvlm", "import mmhall.decoders.vcd"])
def test_the_model_side_cannot_be_imported(tmp_path, code):
    done = run(tmp_path, "5.99.0", "-c", code)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("mmhall.errors.VersionError: mmhall needs transformers")


def test_names_alone_need_no_transformers(tmp_path):
    done = run(tmp_path, "5.99.0", "-m", "mmhall", "list", "strategies")
    assert done.returncode == 0, done.stderr


def test_the_bounds_are_those_of_the_package():
    asked = re.search(r'"transformers>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert asked is not None
    assert versions.OLDEST in (asked[1], f"{asked[1]}.0")
    assert asked[2] == versions.BEYOND
    pinned = re.search(r"(?m)^transformers==(\S+)", (ROOT / "constraints.txt").read_text())
    assert pinned is not None
    assert pinned[1] == versions.NEWEST


def test_only_one_package_looks_inside_transformers():
    inside, words = ROOT / "mmhall" / "_transformers", ("past_key_values", "_update_model_kwargs", "._attn_impl")
    for folder in ("mmhall", "decoders", "benchmarks", "demo"):
        for path in (ROOT / folder).rglob("*.py"):
            if inside in path.parents:
                continue
            text = path.read_text()
            assert not [word for word in words if word in text], path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers":
                    assert node.module in PROMISED, f"{path} imports {node.module}"
