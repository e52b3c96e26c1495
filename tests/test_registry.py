"""Strategies of other packages: real distributions on the path, good and bad."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest

from mmhall import registry
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.run.runs import start
from mmhall.benchmarks.scenes import write_scenes
from mmhall.decoders import STRATEGIES
from mmhall.errors import CompositionError, GenerationError, MmhallWarning, PluginError, RunError
from mmhall.strategies import strategy

ROOT = Path(__file__).resolve().parents[1]
GOOD = """
from dataclasses import dataclass
from typing import ClassVar
from mmhall.strategies import Session, Strategy

@dataclass(frozen=True)
class Own(Strategy):
    name: ClassVar[str] = "own"

    def prepare(self, adapter, inputs):
        return Session()
"""
BAD = {
    "raises": ("raise ZeroDivisionError('on\\npurpose')", "ZeroDivisionError: on purpose"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "torn": ("class Own(", "SyntaxError"),
    "lacks": ("", "AttributeError"),
    "function": ("def Own(): ...", "is not a strategy: it must be a class derived from mmhall.strategies.Strategy"),
    "other": ("class Own: ...", "is not a strategy: it must be a class derived from mmhall.strategies.Strategy"),
}


def install(folder, name, source, version="1.0"):
    """Install a distribution with one strategy in a folder on the path: its name, and the source of its module."""
    told = folder / f"dist_{name}-1.0.dist-info"
    told.mkdir(exist_ok=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: {version}\n")
    (told / "entry_points.txt").write_text(f"[mmhall.strategies]\n{name} = plugin_{name}:Own\n")
    (folder / f"plugin_{name}.py").write_text(textwrap.dedent(source))
    sys.modules.pop(f"plugin_{name}", None)  # of another test


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install what `install` takes in a folder of the test's own."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(STRATEGIES, "_unusable", {})
    return partial(install, tmp_path)


@pytest.mark.parametrize("name", BAD)
def test_a_plugin_that_cannot_be_used_is_named_and_left_out(installed, name):
    source, reason = BAD[name]
    installed("own", GOOD)
    installed(name, source)
    with pytest.warns(MmhallWarning, match=rf"strategy '{name}' is left out: plugin_{name}:Own: .*{reason}"):
        names = STRATEGIES.names()
    assert "own" in names
    assert name not in names
    assert STRATEGIES.names() == names  # and is said once
    assert str(strategy("own")) == "own"
    with pytest.raises(PluginError, match=reason):
        strategy(name)


@pytest.mark.slow
@pytest.mark.parametrize("hangs", ["import time\ntime.sleep(3600)", "while True: pass"], ids=["sleeps", "works"])
def test_a_plugin_whose_import_does_not_end_is_named_and_left_out(installed, tmp_path, hangs):
    """In a process of its own, which ends as usual though the import goes on."""
    installed("own", GOOD)
    installed("endless", hangs)
    program = """
        import sys, time
        from mmhall import registry
        from mmhall.cli import main
        registry.PATIENCE, sys.argv = 1.0, ["mmhall", "list", "strategies"]
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "mmhall: strategy 'endless' is left out: plugin_endless:Own: cannot be loaded: its import has not ended" in (
        done.stderr
    )
    assert {"own", "vcd"} <= {line.split()[0] for line in done.stdout.splitlines() if line}
    assert "endless" not in done.stdout


def test_a_plugin_that_takes_long_is_waited_for_once_and_taken_when_it_is_there(installed, tmp_path, monkeypatch):
    """Who asks meanwhile is told at once."""
    installed(
        "slow",
        f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.01)\n{GOOD}",
    )
    monkeypatch.setattr(registry, "PATIENCE", 0.2)
    for _ in range(2):
        with pytest.raises(PluginError, match=r"plugin_slow:Own: .* has not ended after 0\.2 seconds"):
            STRATEGIES.load("slow")
    (tmp_path / "go").touch()
    registry._pending["plugin_slow:Own"][0].result(30)
    assert STRATEGIES.load("slow").__module__ == "plugin_slow"


def test_the_source_of_a_strategy_from_outside_is_told(installed, tmp_path):
    installed("told", GOOD)
    kind = STRATEGIES.load("told")
    first = STRATEGIES.source(kind)
    assert (first["module"], first["distribution"]) == ("plugin_told", "dist-told 1.0")
    (tmp_path / "plugin_told.py").write_text(GOOD + "# changed\n")
    assert STRATEGIES.source(kind)["digest"] != first["digest"]
    assert STRATEGIES.source(type(strategy("vcd"))) is None


WRONG = GOOD.replace(
    "return Session()",
    "return Session(combine=lambda step: step.main[:, :1] if self.narrow else None)",
).replace(
    'ClassVar[str] = "own"',
    'ClassVar[str] = "wrong"\n    narrow: bool = True',
)


@pytest.mark.parametrize(("spec", "got"), [("wrong", r"shape \(1, 1\)"), ("wrong(narrow=False)", "NoneType")])
@pytest.mark.parametrize("beams", [1, 2])
def test_scores_of_another_shape_are_refused(installed, llava, pictures, spec, got, beams):
    """They would be broadcast silently: every token would get the score of one."""
    installed("wrong", WRONG)
    expected = rf"^wrong: `combine` must return scores of shape \(\d+, \d+\), got {got.replace('(1,', f'({beams},')}"
    with pytest.raises(CompositionError, match=expected):
        llava.generate(pictures[0], "What?", spec, max_new_tokens=2, num_beams=beams)


def test_a_run_is_not_gone_on_with_after_a_strategy_of_another_package_has_changed(installed, llava, tmp_path):
    installed("own", GOOD)
    list(write_scenes(tmp_path / "scenes", 4, 0))
    chair = [(Chair(max_new_tokens=2), Source(tmp_path / "scenes" / "annotations.json"))]

    def begin():
        return start(tmp_path / "run", llava, benchmarks=chair, strategies=[strategy("own")], batch_size=4)

    begin()
    assert begin().store.setup()["sources"]["own"]["distribution"] == "dist-own 1.0"
    installed("own", GOOD + "# changed\n")
    with pytest.raises(RunError, match=r"sources\.own\.digest was"):
        begin()


@pytest.mark.parametrize(("beams", "where"), [(1, r"prompt 1 of 2, step 0"), (2, r"prompt 1 of 2, step 0")])
def test_scores_that_are_no_numbers_name_strategy_prompt_and_step(llava, pictures, beams, where):
    llava.model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(GenerationError, match=rf"^vdd: {where}: the next-token scores hold NaN; try"):
        llava.generate_batch([(pictures[0], "What?"), (pictures[1], "Why?")], "vdd", max_new_tokens=2, num_beams=beams)


def test_a_plugin_that_needs_the_main_thread_is_taken(installed):
    installed("main", f"import signal\nsignal.signal(signal.SIGUSR2, signal.SIG_DFL)\n{textwrap.dedent(GOOD)}")
    assert str(strategy("main")) == "own"
