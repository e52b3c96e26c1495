"""mmhall doctor: what is found, and what is broken."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys

import pytest

from mmhall.cli import doctor


def states(text):
    """What was checked, to its state and what is said of it."""
    return {line[8:25].strip(): (line[:8].strip(), line[25:]) for line in text.splitlines()}


def told(check):
    return states("\n".join(map(str, doctor._findings(check))))


@pytest.mark.slow
def test_a_sound_installation_passes_and_the_model_answers(cli):
    done = cli("doctor")
    assert done.returncode == 0, done.stdout
    found = states(done.stdout)
    assert {"python", "transformers", "import gradio", "import open_clip", "cpu", "memory", "hub cache"} <= found.keys()
    assert {state for state, _ in found.values()} <= {"ok", "note"}
    assert "answered in" in found["greedy"][1]
    for state, text in found.values():
        assert state == "ok" or "; " in text  # what to do


def test_other_versions_and_missing_packages_are_broken(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return "4.40.0" if name == "transformers" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = told(doctor._versions)
    state, text = found["transformers"]
    assert (state, text.startswith("4.40.0 (supported: ")) == ("BROKEN", True)
    assert 'run: pip install "transformers' in text
    assert found["scipy"][0] == "BROKEN"
    assert "is not installed; run: pip install" in found["scipy"][1]
    assert found["python"][0] == found["torch"][0] == "ok"


def test_a_package_that_does_not_import_is_broken_and_the_exit_code_says_so(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for name in ("_versions", "_optional", "_devices", "_memory", "_cache", "_disk", "_answer"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    done = cli("doctor")
    assert done.returncode == 1
    state, text = states(done.stdout)["import open_clip"]
    assert state == "BROKEN"
    assert "pip install --force-reinstall --no-deps open-clip-torch" in text
    assert "mmhall: 1 broken" in done.stderr


def test_little_room_is_a_note_and_a_check_that_fails_is_broken(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 * 10**9))
    assert told(doctor._disk)["this folder"][0] == "note"
    monkeypatch.setattr(doctor, "_free_memory", lambda: 10**9)
    assert told(doctor._memory)["memory"][0] == "note"

    def bad_luck():
        yield doctor.Finding(doctor.OK, "cpu", "2 cores")
        raise OSError("the driver is gone")

    assert told(bad_luck)["bad_luck"] == (
        "BROKEN",
        "OSError: the driver is gone; repair it as the reason says, or reinstall mmhall",
    )
