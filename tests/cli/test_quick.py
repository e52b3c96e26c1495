"""Commands that read what is there import neither torch nor transformers, which takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from mmhall.adapters import FAMILIES
from mmhall.decoders import STRATEGIES
from mmhall.registry import load_target
from mmhall.strategies import card
from tests.sources import ROOT

COMMANDS = """
import json, sys
from mmhall.cli import main
found = {}
for command in json.loads(sys.argv[1]):
    sys.argv = ["mmhall", *command]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
    heavy = ("torch", "transformers", "scipy.stats", "pandas", "gradio", "datasets", "open_clip", "matplotlib")
    found[" ".join(command)] = [name for name in heavy if name in sys.modules]
print("found", json.dumps(found))
"""
CARDS = """
import json, sys
from mmhall._declarations import declarations
with declarations():
    from mmhall.adapters import FAMILIES
    from mmhall.registry import load_target
    from mmhall.strategies import STRATEGIES, card
    cards = [card(name) for name in STRATEGIES.names()]
    limits = [(load_target(target).grid, load_target(target).limits) for target in FAMILIES.values()]
gone = ("torch", "safetensors", "mmhall.decoders.", "mmhall.adapters.")
left = [name for name in sys.modules if name.startswith(gone)]
print(json.dumps([left, [[*map(repr, (c.title, c.sections, c.options, sorted(c.claims), c.refuses))] for c in cards],
                  repr(limits)]))
from mmhall.decoders.vcd import VCD
import torch
assert VCD.__init__.__globals__ and torch.ones(1).item() == 1  # the real ones, from here on
"""


COMPLETE = "import sys; sys.argv = ['mmhall']; from mmhall.cli import main; main()"


def run(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        encoding="utf-8",
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_reading_commands_import_nothing_heavy(cli, model_folder, tmp_path):
    benchmarks = ("pope(max_new_tokens=2)", "chair(max_new_tokens=4)")
    strategies = ("--strategy", "greedy", "--strategy", "vdd", "--strategy", "opera")
    made = cli("bench", *benchmarks, *strategies, "--model", model_folder, "--scenes", "3", "--out", "run")
    assert made.returncode == 0, made.stderr
    folder = str(tmp_path / "run")
    commands = [
        ["--version"],
        ["list", "strategies"],
        ["list", "benchmarks"],
        ["list", "models"],
        ["show", "vhr"],
        ["show", "vhr+vdd(alpha=0.5)"],
        ["show", "pope"],
        ["export", folder, "--to", str(tmp_path / "answers.jsonl")],
        ["report", folder],
        ["report", folder, "--full"],
        ["report", folder, "--latex"],
        ["compare", folder, folder],
    ]
    told = run(COMMANDS, json.dumps(commands)).partition("found ")[2]
    assert json.loads(told) == {" ".join(command): [] for command in commands}


@pytest.mark.slow
def test_what_is_declared_is_the_same_without_torch():
    left, cards, limits = json.loads(run(CARDS))
    assert left == []
    for name, told in zip(STRATEGIES.names(), cards, strict=True):
        real = card(name)
        assert told == [*map(repr, (real.title, real.sections, real.options, sorted(real.claims), real.refuses))], name
    assert limits == repr([(load_target(t).grid, load_target(t).limits) for t in FAMILIES.values()])


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "offered"), [("mmhall ca", "caption"), ("mmhall caption --max", "--max-new-tokens")])
def test_the_shell_completes_commands_and_options(typed, offered):
    asked = {"_MMHALL_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    assert run(COMPLETE, **asked).split() == [offered]
