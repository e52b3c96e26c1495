"""Versions that were not tested are refused before anything else can fail."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmhall._transformers import versions
from mmhall.errors import VersionError

ROOT = Path(__file__).resolve().parent.parent.parent
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


def run(folder, version, *command):
    """Run a command where a package without a single name stands for transformers; no version: where there is none."""
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
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=folder)


@pytest.mark.parametrize(
    ("version", "found"), [("4.40.0", "found 4.40.0"), ("9.0.0", "found 9.0.0"), (None, "not installed")]
)
def test_a_command_says_so_in_one_line(tmp_path, version, found):
    """Before anything is imported that such a version lacks."""
    done = run(tmp_path, version, "-m", "mmhall", "show", "vhr", "--model", "embedded")
    assert done.returncode == 2
    assert done.stderr.startswith(f"mmhall: mmhall needs transformers >= {versions.OLDEST}")
    assert found in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "command", ["generate a.png", "bench chair --out run", "tune vhr", "choose a.png What?", "report ."]
)
def test_every_command_that_needs_transformers_says_so(tmp_path, command):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    done = run(tmp_path, "9.0.0", "-m", "mmhall", *command.split())
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
    assert "found 9.0.0" in done.stderr


def test_the_public_names_say_so(tmp_path):
    done = run(tmp_path, "9.0.0", "-c", "import mmhall; mmhall.load")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("mmhall.errors.VersionError: mmhall needs transformers")


def test_names_alone_need_no_transformers(tmp_path):
    done = run(tmp_path, "9.0.0", "-m", "mmhall", "list", "benchmarks")
    assert done.returncode == 0, done.stderr


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


def names(tree):
    """Every attribute, keyword and string that stands for a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword):
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_only_one_package_looks_inside_transformers():
    inside = ROOT / "mmhall" / "_transformers"
    for folder in ("mmhall", "decoders", "benchmarks", "demo"):
        for path in (ROOT / folder).rglob("*.py"):
            if inside in path.parents:
                continue
            tree = ast.parse(path.read_text())
            assert not INSIDE & set(names(tree)), path
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers":
                    assert node.module in PROMISED, f"{path} imports {node.module}"
                    assert not [alias.name for alias in node.names if alias.name.startswith("_")], path
                elif isinstance(node, ast.Import):
                    assert not [a.name for a in node.names if a.name.startswith("transformers.")], path
