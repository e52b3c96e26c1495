"""The flags that say how a model is loaded: the same everywhere, heeded, and part of a run's set-up."""

from __future__ import annotations

import json
import re

import pytest

from mmhall.models._options import LoadOptions

TEMPLATE = "{% for m in messages %}Q {% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endfor %} A"  # noqa: E501


@pytest.mark.parametrize("command", ["generate", "choose", "bench", "tune", "fit", "demo", "show"])
def test_every_command_that_loads_a_model_has_them(cli, command, monkeypatch):
    """Those that use no strategy, or make what it has learnt, look for no artifact."""
    monkeypatch.setenv("COLUMNS", "200")
    told = cli(command, "--help").stdout
    for flag in LoadOptions().arguments():
        wanted = flag != "artifacts" or command not in ("choose", "fit")
        assert (f"--{flag.replace('_', '-')} " in told) == wanted


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


def test_a_run_is_resumed_with_the_same_ones_only(cli, refused, model_folder):
    asked = ("bench", "chair(max_new_tokens=2)", "--scenes", "1", "--out", "run", "--model", model_folder)
    assert cli(*asked, "--processor", "do_rescale=true").returncode == 0
    assert re.search(r'loading was \["processor=.*, now \[\]', refused(*asked))
