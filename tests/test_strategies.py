from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

import mmhall
from mmhall import registry
from mmhall.decoders.vcd import VCD
from mmhall.errors import CompositionError, OptionError, PluginError, UnknownNameError
from mmhall.strategies import Session, Strategy, strategy


@dataclass(frozen=True)
class Mine(Strategy):
    name: ClassVar[str] = "mine"

    strength: float = 1.0
    kind: str = "a"

    def prepare(self, adapter, inputs):
        return Session()


def test_options_come_from_the_text_and_from_keywords():
    assert strategy("vcd(alpha=0.5, seed=3)") == VCD(alpha=0.5, seed=3)
    assert strategy("vcd(alpha=0.5)", alpha=2) == VCD(alpha=2.0)
    assert strategy(VCD(alpha=0.5), beta=0.3) == VCD(alpha=0.5, beta=0.3)
    assert strategy(" vcd ") == VCD()


def test_text_shows_only_what_was_changed():
    assert str(VCD()) == "vcd"
    assert str(VCD(alpha=0.5, seed=2)) == "vcd(alpha=0.5, seed=2)"


def test_options_are_plain_data():
    assert VCD(alpha=1).options() == {"alpha": 1.0, "beta": 0.1, "noise_step": 500, "seed": 0}


@pytest.mark.parametrize(
    "text", ["", "vcd(", "vcd)", "vcd(0.5)", "vcd(**x)", "vcd(alpha=open('x'))", "vcd(alpha=)", "a b"]
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(OptionError):
        strategy(text)


def test_an_unknown_option_is_suggested():
    with pytest.raises(UnknownNameError, match="unknown option of vcd 'alhpa'; did you mean 'alpha'"):
        strategy("vcd", alhpa=1)


@pytest.mark.parametrize(("option", "value"), [("alpha", "1"), ("alpha", True), ("seed", 1.5), ("beta", None)])
def test_a_value_of_another_type_is_refused(option, value):
    with pytest.raises(OptionError, match=f"vcd: {option} must be of type"):
        strategy("vcd", **{option: value})


def test_another_package_adds_a_strategy_by_entry_point(monkeypatch):
    point = EntryPoint("mine", f"{__name__}:Mine", "mmhall.strategies")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "mmhall.strategies" else [])
    monkeypatch.setattr(registry, "load_target", lambda target: {f"{__name__}:Mine": Mine}[target])
    assert mmhall.strategy("mine(strength=2, kind='b')") == Mine(2.0, "b")


@pytest.mark.parametrize("options", [{"beta": None}, {"noise_step": 1.5}, {"seed": "a"}, {"seed": -1}])
def test_a_strategy_checks_its_options_however_it_is_built(options):
    with pytest.raises(OptionError):
        VCD(**options)
    with pytest.raises(OptionError):
        strategy(VCD(), **options)


def test_an_unknown_option_of_a_built_strategy_is_suggested():
    with pytest.raises(UnknownNameError, match="did you mean 'alpha'"):
        strategy(VCD(), alhpa=1)


def test_branches_need_someone_to_read_them():
    with pytest.raises(CompositionError):
        Session(branches=[{}])


def test_a_broken_entry_point_is_one_line(monkeypatch):
    point = EntryPoint("broken", "no_such_package:Thing", "mmhall.strategies")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(PluginError, match="no_such_package:Thing: cannot be loaded"):
        strategy("broken")
