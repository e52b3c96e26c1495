"""The package as users get it: both distributions are whole, and an environment that has only them can use it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import mmhall
from tests.docs.pages import links
from tests.sources import FOLDERS, ROOT, sources

OLDEST = (3, 10)
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
"""Environment variables that do not lead to this checkout."""
USER = """
import mmhall
print(mmhall.__file__)
print(mmhall.load().generate("scenes/000001.png", "Is there a cup in the image?", strategy="vdd").text)
"""


def build(source: Path, out: Path, kind: str) -> Path:
    """Build a distribution with the installed setuptools, as pip would in an environment of its own."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A source distribution of the checkout, and a wheel of what it holds."""
    folder = tmp_path_factory.mktemp("package")
    skipped = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "runs", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, folder / "checkout", ignore=skipped)
    archive = build(folder / "checkout", folder, "sdist")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    return archive, build(source, folder, "wheel")


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    """An environment with the wheel; what it depends on is taken from this one, mmhall is not."""
    import typer

    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "-qq", "--no-index"]
    done = subprocess.run([*pip, "--no-deps", built[1]], env=ALONE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(str(Path(typer.__file__).parents[1]))
    return folder


def data_files() -> set[str]:
    """What lies in the packages beside code, under the names that it has when installed."""
    return {
        f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "README.md"
    }


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(built):
    names = {name for name in zipfile.ZipFile(built[1]).namelist() if ".dist-info/" not in name}
    modules = {
        source.name.replace(".", "/") + ("/__init__.py" if source.path.name == "__init__.py" else ".py")
        for source in sources()
    }
    assert modules | data_files() <= names
    assert {name for name in names - modules - data_files() if not name.endswith("/README.md")} == set()


@pytest.mark.slow
def test_its_description_leads_to_the_repository(built):
    with zipfile.ZipFile(built[1]) as file:
        (name,) = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(file.read(name).decode())
    urls = dict(line.split(", ", 1) for line in told.get_all("Project-URL"))
    assert set(urls) == {"Repository", "Documentation", "Changelog", "Issues"}
    assert told["Description-Content-Type"] == "text/markdown"
    targets = re.findall(r"\]\(([^)\s]+)\)", told.get_payload())
    assert len(targets) == len(links(ROOT / "README.md")) > 10
    assert all(target.startswith("https://") for target in targets)
    pictures = re.findall(r"!\[[^]]*\]\(([^)\s]+)\)", told.get_payload())
    assert pictures
    assert all(target.startswith(f"{urls['Repository']}/raw/main/docs/") for target in pictures)
    assert told["Requires-Python"] == ">=3.10"
    assert set(told.get_all("Provides-Extra")) == {"accelerate", "ray", "docs", "heic", "dev"}


@pytest.mark.long
@pytest.mark.slow
def test_an_environment_with_the_wheel_alone_works(environment, tmp_path):
    (tmp_path / "user.py").write_text(USER)

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=ALONE, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(environment / "bin" / "mmhall", "scenes", "--n", "1", "--out", "scenes")
    file, answer = run(environment / "bin" / "python", "user.py").splitlines()
    assert Path(file).is_relative_to(environment)
    assert answer


@pytest.mark.slow
def test_every_file_is_of_the_oldest_python():
    """Syntax; mypy checks names of the standard library for the same version."""
    for source in sources():
        ast.parse(source.text, feature_version=OLDEST)


def test_the_citation_is_of_this_version():
    told = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    (repository,) = re.findall(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert f"version: {mmhall.__version__}\n" in told
    assert f"repository-code: {repository}\n" in told
