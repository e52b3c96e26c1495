"""What `mmhall speed` prints, on a smaller model."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from mmhall.benchmarks.timing import model, peers, products, speed
from mmhall.cli.speed import _time_products


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(model, "SMALL", model.Size(2, 128, torch.float32))
    monkeypatch.setattr(speed, "measure", partial(speed.measure, new_tokens=3))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.slow
def test_the_cost_of_a_strategy_stands_beside_that_of_linear_layers_if_asked(cli):
    printed = cli("speed", "vaf", "--turns", 1, "--products").stdout
    lines = printed.splitlines()
    table = next(number for number, line in enumerate(lines) if line.startswith("LINEAR LAYER"))
    assert max(map(len, lines[table : table + 8])) <= 80
    assert printed.index("VARIANT") < printed.index("\nvaf ") < printed.index("LINEAR LAYER")
    assert "\noutput layer, 32000 x 128" in printed
    assert "A step of one row reads 18 MB of weights and 1 MB of cache." in printed
    assert f"{torch.get_num_threads()} threads" in printed.splitlines()[-1]
    found = json.loads(cli("speed", "vaf", "--turns", 1, "--products", "--json").stdout)
    assert [one["name"] for one in found["variants"]] == ["plain generate", "vaf"]
    assert [one["layer"] for one in found["products"]] == ["hidden x hidden", "output layer"]
    (limit,) = found["limit"]
    assert limit["weights"] == 4 * (2 * (4 * 128**2 + 3 * 128 * 344 + 2 * 128) + 32000 * 128)
    assert limit["cache"] == 2 * 2 * 128 * (576 + 41 + 32) * 4
    assert limit["bandwidth"] > 0
    assert set(found) == {"variants", "limit", "products"}


@pytest.mark.slow
def test_linear_layers_that_nobody_asked_for_are_not_shown(cli):
    """Those of so small a model are left to torch, so that there is nothing to show without names either."""
    assert "LINEAR LAYER" not in cli("speed", "vaf", "--turns", 1).stdout
    assert "products" not in json.loads(cli("speed", "vaf", "--turns", 1, "--json").stdout)
    assert _time_products(model.SMALL, asked=False)[1] == []
    assert len(_time_products(model.SMALL, asked=True)[1]) == 2


def test_linear_layers_that_are_reordered_are_shown(monkeypatch):
    measured = products.Product("output layer", 8, 8, products.ROWS, (2.0,) * 4, (1.0,) * 4, chosen=2)
    monkeypatch.setattr(products, "measure", lambda size: [measured])
    assert len(_time_products(model.SMALL, asked=False)[1]) == 2


def test_linear_layers_of_a_gpu_are_not_timed(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "products must be left out on a GPU" in refused("speed", "vaf", "--products")


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
