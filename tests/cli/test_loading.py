"""The flags that say how a model is loaded: the same everywhere, heeded, and part of a run's set-up."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest
from typer.main import get_command

from mmhall.cli import app
from mmhall.models import LoadOptions
from tests.sources import ROOT

TEMPLATE = "{% for m in messages %}Q {% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endfor %} A"  # noqa: E501


FLAGS = {name: sorted(p.name for p in command.params) for name, command in get_command(app).commands.items()}
LOADING = {name for name in FLAGS if "model" in FLAGS[name]} - {"judge"} | {"run"}  # a judge is asked over the network


def test_the_commands_that_load_a_model_are_known():
    every_day = {"generate", "choose", "bench", "run", "tune", "fit", "demo", "show", "explain", "diagnose"}
    assert every_day <= LOADING
    loads = {path.stem for path in (ROOT / "mmhall" / "cli").glob("*.py") if "mmhall.load(" in path.read_text()}
    assert loads - {"doctor"} <= LOADING  # it loads the embedded model only


@pytest.mark.parametrize("command", sorted(LOADING))
def test_every_command_that_loads_a_model_has_them(command):
    """Those that use no strategy, or make what it has learnt, look for no artifact."""
    without = {"artifacts"} if command in ("choose", "fit", "diagnose", "reproduce") else set()
    own = {field.name for field in fields(LoadOptions)}
    assert own & set(FLAGS[command]) == own - without


def test_they_are_heeded(cli, model_folder, picture_file):
    asked = ("generate", picture_file, "What?", "--model", model_folder, "--max-new-tokens", "4", "--json")
    plain, other = (json.loads(cli(*asked, *more).stdout) for more in ((), ("--chat-template", TEMPLATE)))
    assert plain["usage"]["prompt_tokens"] != other["usage"]["prompt_tokens"]


def test_what_cannot_be_is_one_line(refused, model_folder, picture_file):
    asked = ("generate", picture_file, "--model", model_folder)
    assert "KEY=VALUE" in refused(*asked, "--processor", "max_pixels")
    assert "quantize must be" in refused(*asked, "--quantize", "3bit")
    assert "device must be left out" in refused(*asked, "--device", "cpu", "--device-map", "auto")
    assert "chat template cannot be read" in refused(*asked, "--chat-template", "none.jinja")
    assert "given together with --model" in refused("show", "vcd", "--dtype", "float16")


@pytest.mark.slow
def test_a_run_is_resumed_with_the_same_ones_only(cli, refused, model_folder):
    asked = ("bench", "chair(max_new_tokens=2)", "--scenes", "1", "--out", "run", "--model", model_folder)
    given = ("--processor", "do_rescale=true", "--model-arg", "attn_implementation=sdpa")
    assert cli(*asked, *given).returncode == 0
    assert re.search(r'loading was \["processor=.*, \"attn_implementation=.*\], now \[\]', refused(*asked))
    assert cli("bench", "--add", "vdd", "--out", "run").returncode == 0
    assert "loading was" in refused("bench", "--add", "pai", "--out", "run", "--model-arg", "attn_implementation=eager")
    assert "quantize must be" in refused("bench", "--add", "pai", "--out", "run", "--quantize", "3bit")
