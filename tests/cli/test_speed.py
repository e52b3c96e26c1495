"""What `mmhall speed` prints, on a smaller model."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from mmhall.benchmarks.timing import model, peers, speed


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(model, "SMALL", model.Size(2, 128, torch.float32))
    monkeypatch.setattr(speed, "measure", partial(speed.measure, new_tokens=3))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.slow
def test_the_cost_of_a_strategy_stands_beside_that_of_linear_layers(cli):
    printed = cli("speed", "vaf", "--turns", 1).stdout
    assert printed.index("VARIANT") < printed.index("\nvaf ") < printed.index("LINEAR LAYER")
    assert "\noutput layer, 32000 x 128" in printed
    assert f"{torch.get_num_threads()} threads" in printed.splitlines()[-1]
    found = json.loads(cli("speed", "vaf", "--turns", 1, "--json").stdout)
    assert [one["name"] for one in found["variants"]] == ["plain generate", "vaf"]
    assert [one["layer"] for one in found["products"]] == ["hidden x hidden", "output layer"]
    assert set(found) == {"variants", "products"}


@pytest.mark.slow
def test_peers_are_timed_alone(cli, monkeypatch):
    monkeypatch.setattr(peers, "RIVALS", {"transformers": peers.RIVALS["transformers"][:1], "nobodys_toolkit": ()})
    printed = cli("speed", "--peers", "--turns", 1).stdout
    assert "\ngreedy  generate  1 " in printed
    assert "nobodys_toolkit not installed." in printed
    assert "VARIANT" not in printed
    found = json.loads(cli("speed", "--peers", "--turns", 1, "--json").stdout)
    assert [(one["rival"], one["differing"]) for one in found["peers"]] == [("generate", 0)]


def test_peers_take_no_strategies(refused):
    line = refused("speed", "vcd", "--peers")
    assert "speed: strategies must be left out with --peers, which has a list of its own, got ['vcd']" in line
