"""mmhall show."""

from __future__ import annotations

import pytest

from mmhall.benchmarks import BENCHMARKS
from mmhall.decoders import STRATEGIES
from mmhall.options import rules
from mmhall.strategies._docs import card


@pytest.mark.slow
def test_a_strategy_shows_its_card_and_options(cli):
    for name in STRATEGIES.names():
        done = cli("show", name)
        assert done.returncode == 0, done.stderr
        for section in card(name).sections:
            assert f"\n{section:<10}" in done.stdout, name
        for option in rules(STRATEGIES.load(name)):
            assert f"\n  {option}: " in done.stdout, name
        assert f"\nWrite     {name}" in done.stdout, name


def test_show_tells_where_values_come_from(cli, model_folder):
    shown = cli("show", "gift").stdout
    assert "alpha: a number in [0, 60]; depends on the model, else 5.0" in shown
    assert "Published: 4.0 for qwen2_vl with 28 layers." in shown
    assert "`mmhall tune` tries 0.5, 1.0, 2.0, 5.0." in shown
    assert "the rows of attention: cannot be combined with var, pai, vaf" in shown
    on = cli("show", "gift", "--model", model_folder).stdout
    assert "alpha=5.0: not tuned for this model: the general default" in on


def test_an_unknown_strategy_is_suggested(refused):
    assert "unknown strategy 'gitf'; did you mean 'gift'?" in refused("show", "gitf")


def test_show_tells_what_a_model_gives_away(cli):
    assert "found in this model" in cli("show", "var", "--model", "embedded").stdout


@pytest.mark.slow
def test_every_benchmark_shows_its_card_and_options(cli):
    for name in BENCHMARKS.names():
        done = cli("show", name)
        assert done.returncode == 0, done.stderr
        kind = BENCHMARKS.load(name)
        assert "Paper" in done.stdout or "Idea" in done.stdout, name
        assert all(f"  {option}: " in done.stdout for option in rules(kind)), name
        assert f"Write     {name}" in done.stdout, name
        assert f"Data      {kind.reads}" in done.stdout, name


def test_a_benchmark_is_not_shown_on_a_model(refused):
    assert "left out" in refused("show", "pope", "--model", "embedded")
