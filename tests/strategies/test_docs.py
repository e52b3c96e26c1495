"""Every strategy has a whole card, and what is shown of it is what its code says."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import pytest

import mmhall
from mmhall import registry
from mmhall.benchmarks import BENCHMARKS
from mmhall.decoders import BUILT_IN, STRATEGIES
from mmhall.errors import PluginError, UnknownNameError
from mmhall.options import by_model, rules
from mmhall.strategies import Session, Strategy
from mmhall.strategies._docs import OPTIONAL, SECTIONS, card, heading, parsed
from tests.sources import ROOT

NAMES = STRATEGIES.names()
ROW = r"^\| \[`([\w-]+)`\]\(\.\./(decoders/\w+\.py)\) \| (.*) \|$"  # of the table in docs/methods.md


@dataclass(frozen=True)
class Plain(Strategy):
    """Does nothing much.

    At length.

    Attributes:
        strength: How much:
            a lot.
        kind: Which; see `other`.

    Note:
        other: Not an option.
    """

    name: ClassVar[str] = "plain"
    published: ClassVar = {("llava", 32): {"strength": 3.0}}

    strength: float = by_model(1.0, low=0, tries=(1.0, 2.0))
    kind: str = "a"
    bare: int = 3

    def prepare(self, adapter, inputs):
        return Session()


@pytest.fixture
def plugin(monkeypatch):
    point = EntryPoint("plain", f"{__name__}:Plain", "mmhall.strategies")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "mmhall.strategies" else [])
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Plain.__module__])
    return "plain"


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_has_a_whole_card(name):
    shown = card(name)
    assert shown.title.endswith(".")
    assert tuple(shown.sections) == tuple(part for part in SECTIONS if part not in OPTIONAL - set(shown.sections))
    assert all(text for text in shown.sections.values())
    assert [option.name for option in shown.options] == list(rules(STRATEGIES.load(name)))
    for option in shown.options:
        assert option.help.endswith("."), option
        assert option.allowed


@pytest.mark.parametrize("name", NAMES)
def test_no_word_of_a_card_is_lost_nor_of_the_heading_read_from_the_source(name):
    module = importlib.import_module(STRATEGIES.load(name).__module__)
    shown = card(name)
    assert heading(STRATEGIES, name) == (shown.title, shown.sections)
    told = [shown.title, *(word for pair in shown.sections.items() for word in pair)]
    assert " ".join(told).split() == module.__doc__.split()


@pytest.mark.parametrize("name", NAMES)
def test_the_options_are_the_codes(name):
    kind, shown = STRATEGIES.load(name), card(name)
    for option in shown.options:
        assert option.default == getattr(kind(), option.name)
        assert option.by_model == rules(kind)[option.name].by_model
        for (family, depth), value in option.published.items():
            assert kind.published[family, depth][option.name] == value
        if not rules(kind)[option.name].learned:
            assert mmhall.strategy(f"{name}({option.example})").options()[option.name] == option.general


def test_headings_import_no_torch():
    code = (
        "import sys; from mmhall.strategies._docs import heading; from mmhall.decoders import STRATEGIES\n"
        "print({name: heading(STRATEGIES, name)[0] for name in STRATEGIES.names()}['vcd'])\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["Visual contrastive decoding (VCD).", "[]"]


def test_benchmarks_have_headings():
    assert heading(BENCHMARKS, "pope")[0] == "POPE: polling-based object probing."


def test_a_plugin_without_a_card_is_shown_by_its_class(plugin):
    shown = card(plugin)
    assert (shown.title, shown.sections, shown.refuses) == ("Does nothing much.", {}, "")
    strength, kind, bare = shown.options
    assert (strength.help, strength.default, strength.general) == ("How much: a lot.", None, 1.0)
    assert strength.published == {("llava", 32): 3.0}
    assert strength.tries == (1.0, 2.0)
    assert (kind.help, kind.default, kind.allowed) == ("Which; see `other`.", "a", "of type str")
    assert (bare.help, bare.default) == ("", 3)


def test_a_plugin_is_headed_by_its_class(plugin):
    assert heading(STRATEGIES, plugin) == ("Does nothing much.", {})


def test_what_a_card_cannot_tell_is_an_error(monkeypatch):
    with pytest.raises(UnknownNameError, match="did you mean 'vhr'"):
        card("vh")
    point = EntryPoint("broken", "no_such_package:Thing", "mmhall.strategies")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(PluginError, match="no_such_package"):
        heading(STRATEGIES, "broken")


def test_a_card_is_read_line_by_line():
    title, sections = parsed("Name.\n\nFormula   a = b\n              + c\n          d\nDiffers   Not.\n\nSome text.\n")
    assert title == "Name."
    assert sections == {"Formula": "a = b\n    + c\nd", "Differs": "Not."}


def test_claims_and_refusals():
    assert card("vhr").claims == {"the gains of heads"}
    assert card("pai").claims == card("vaf").claims | card("vcd").claims
    assert card("vhr").refuses == ""
    assert card("vaf").refuses.startswith("models whose pictures")


def test_the_methods_page_names_every_strategy_with_its_file_and_its_paper():
    """A row each; the paper is one that the card names."""
    told = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = {name: (file, rest) for name, file, rest in re.findall(ROW, told, re.MULTILINE)}
    assert sorted(rows) == sorted(BUILT_IN)
    for name, (file, rest) in rows.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        assert BUILT_IN[name].split(":")[0].rpartition(".")[2] == Path(file).stem
        paper, status = rest.split(" | ")
        assert paper.startswith("none") or paper in text, name
        assert status.strip(), name
