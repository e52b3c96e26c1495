"""What options may be, how a refusal reads, and how strategies are read from text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import given, strategies as st

import mmhall
from mmhall.decoders import STRATEGIES
from mmhall.errors import OptionError, UnknownNameError
from mmhall.options import Rule, by_model, option, parse, rules, split
from mmhall.strategies import Session, Strategy, strategy

NAMES = tuple(STRATEGIES.names())


def refused(rule, value):
    with pytest.raises(OptionError) as caught:
        rule.check("own", "knob", value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("rule", "fits", "does_not", "told"),
    [
        (Rule(0.5, low=0), [0.0, 1e9, 3], [-1e-9, math.nan, math.inf, -math.inf], "a number >= 0"),
        (Rule(0.5, low=0, high=1), [0.0, 1.0, 1, 0], [-0.1, 1.1, math.nan], "a number in [0, 1]"),
        (Rule(0.5, high=1), [1.0, -9.0], [1.1, math.nan, -math.inf], "a number <= 1"),
        (Rule(0.5), [-1.0, 7], [math.nan, math.inf], "a finite number"),
        (Rule(3, low=0, high=9), [0, 9], [-1, 10], "an integer from 0 to 9"),
        (Rule(3, low=1), [1, 10**30], [0], "an integer >= 1"),
        (Rule("a", choices=("a", "b")), ["a", "b"], ["c", ""], '"a" or "b"'),
        (Rule(1, choices=(1, 2)), [1, 2], [3], "1 or 2"),
        (Rule("a", holds=str.islower, expected="small letters"), ["b"], ["B", ""], "small letters"),
        (Rule((1,), holds=lambda v: sum(v) < 9, expected="a small sum"), [(), (8,)], [(9,)], "a small sum"),
    ],
)
def test_values_outside_a_rule_are_refused_in_words(rule, fits, does_not, told):
    for value in fits:
        assert rule.check("own", "knob", value) == value
    for value in does_not:
        assert refused(rule, value) == f"own: knob must be {told}, got {value!r}"


@pytest.mark.parametrize(
    ("general", "others"),
    [
        (0.5, ["0.5", True, None, (0.5,), 1j]),
        (3, [3.0, "3", False, None]),
        (True, [1, 0, "True", None]),
        ("a", [1, None, ("a",), b"a"]),
        ((1,), [1, None, "1"]),
    ],
)
def test_another_type_is_refused(general, others):
    rule = Rule(general)
    assert rule.check("own", "knob", general) == general
    for value in others:
        assert refused(rule, value) == f"own: knob must be {rule.describe()}, got {value!r}"


def test_a_list_is_taken_for_a_tuple():
    assert Rule((1,)).check("own", "knob", [2, 3]) == (2, 3)


def test_an_integer_counts_as_a_number_and_becomes_one():
    value = Rule(0.5).check("own", "knob", 2)
    assert (value, type(value)) == (2.0, float)
    assert refused(Rule(0.5), 10**400) == "own: knob must be a finite number, got inf"
    assert refused(Rule(0.5, low=0), -(10**400)) == "own: knob must be a number >= 0, got -inf"


def test_only_what_depends_on_the_model_may_be_left_open():
    assert Rule(0.5, by_model=True, low=0).check("own", "knob", None) is None
    assert refused(Rule(0.5, by_model=True, low=0), -1.0) == "own: knob must be a number >= 0, got -1.0"
    assert "got None" in refused(Rule(0.5), None)


@dataclass(frozen=True)
class Knobs(Strategy):
    """Options of every kind, declared and not."""

    name: ClassVar[str] = "knobs"

    gain: float = by_model(2.0, low=0, high=9)
    where: str = option("all", choices=("all", "last"))
    plain: float = 0.5
    count: int = 3
    on: bool = False
    text: str = "x"
    dims: tuple[int, ...] = ()
    maybe: int | None = None
    made: tuple[str, ...] = field(default_factory=tuple)

    def prepare(self, adapter, inputs):
        return Session()


@pytest.fixture(autouse=True)
def knobs(monkeypatch):
    load = STRATEGIES.load
    monkeypatch.setattr(STRATEGIES, "load", lambda name: Knobs if name == "knobs" else load(name))


def test_declared_and_undeclared_options_stand_side_by_side():
    made = strategy("knobs(gain=1, plain=2, count=4, on=True, dims=(1, 2))")
    assert made == Knobs(1.0, "all", 2.0, 4, True, "x", (1, 2))
    assert Knobs().gain is None
    for values, reason in (
        ({"gain": 10}, r"gain must be a number in \[0, 9\], got 10"),
        ({"where": "first"}, 'where must be "all" or "last", got \'first\''),
        ({"plain": "2"}, "plain must be a finite number, got '2'"),
        ({"plain": math.nan}, "plain must be a finite number, got nan"),
        ({"count": 4.0}, "count must be of type int, got 4.0"),
        ({"count": True}, "count must be of type int, got True"),
        ({"on": 1}, "on must be True or False, got 1"),
    ):
        with pytest.raises(OptionError, match=f"^knobs: {reason}"):
            Knobs(**values)


@pytest.mark.parametrize("given", [{"maybe": 3}, {"maybe": None}, {"made": ("a",)}, {"made": ()}])
def test_an_option_without_a_default_that_tells_its_type_is_taken_as_it_is(given):
    made = Knobs(**given)
    assert made.options().items() >= given.items()
    assert strategy(str(made)) == made


def test_rules_are_kept_by_option():
    assert rules(Knobs)["gain"] == Rule(2.0, by_model=True, low=0, high=9)
    assert rules(Knobs)["plain"] == Rule(0.5)


@pytest.mark.parametrize("name", NAMES)
def test_every_strategys_options_are_documented_bounded_and_open_only_by_rule(name):
    kind = STRATEGIES.load(name)
    made = kind()
    for known, rule in rules(kind).items():
        assert f"{known}:" in kind.__doc__ or any(f"{known}:" in (base.__doc__ or "") for base in kind.__mro__[1:])
        assert (getattr(made, known) is None) == rule.by_model
        assert known == "artifact" or rule.check(name, known, rule.general) == rule.general
        for value in rule.tries:
            assert rule.check(name, known, value) == value


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("vcd", ["vcd"]),
        ("vhr+vcd", ["vhr", "vcd"]),
        (" vhr + vcd ", [" vhr ", " vcd "]),
        ("vhr(layers='50%:')+vdd(free='none+unk')", ["vhr(layers='50%:')", "vdd(free='none+unk')"]),
        ("var(sink_dims=(1, 2))+vcd", ["var(sink_dims=(1, 2))", "vcd"]),
        ("knobs(text='a)')+vcd", ["knobs(text='a)')", "vcd"]),
        ("knobs(text='(')+vcd", ["knobs(text='(')", "vcd"]),
        ('knobs(text="it\'s (+")+vcd', ['knobs(text="it\'s (+")', "vcd"]),
        (r"knobs(text='it\'s )+')+vcd", [r"knobs(text='it\'s )+')", "vcd"]),
    ],
)
def test_plus_signs_outside_parentheses_and_quotes_part_strategies(spec, parts):
    assert split(spec) == parts


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("vcd", "vcd", {}),
        (" vcd ( ) ", "vcd", {}),
        ("vcd(alpha=0.5, seed=3,)", "vcd", {"alpha": 0.5, "seed": 3}),
        ("var(sink_dims=(1, 2), keep=1)", "var", {"sink_dims": (1, 2), "keep": 1}),
        ("a-b(x='(1, \"2\")', y=-1e-3, z=None, w=True)", "a-b", {"x": '(1, "2")', "y": -1e-3, "z": None, "w": True}),
        ("vcd(\nalpha=1,\nbeta=0)", "vcd", {"alpha": 1, "beta": 0}),
    ],
)
def test_options_are_read_as_python_values(spec, name, options):
    assert parse(spec) == (name, options)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "+",
        "vcd+",
        "+vcd",
        "vhr++vcd",
        "(vhr+vcd)",
        "vcd(alpha=1)(beta=0)",
        "vcd(alpha=1).x(beta=0)",
        "vcd(alpha=1)(",
        "vcd(alpha=1))",
        "vcd(alpha=1, alpha=2)",
        "vcd(alpha={[]: 1})",
        "vcd(alpha=1+x)",
        "vcd(alpha=__import__('os'))",
        "vcd(lambda: 1)",
        "vcd(alpha:=1)",
        "vcd(*[1])",
        "vcd(**{'alpha': 1})",
        "vcd(text='a)",
        "vcd(alpha=1) # note",
        "vcd(alpha=1\0)",
        "vcd alpha=1",
    ],
)
def test_what_is_no_spec_is_refused_in_one_line(spec):
    with pytest.raises(OptionError) as caught:
        strategy(spec)
    assert "\n" not in str(caught.value)


def test_an_unknown_strategy_or_option_in_a_composition_is_named():
    with pytest.raises(UnknownNameError, match="unknown strategy 'vhd'; did you mean 'vhr'"):
        strategy("vcd+vhd")
    with pytest.raises(UnknownNameError, match="unknown option of vhr 'alpa'; did you mean 'alpha'"):
        strategy("vcd+vhr(alpa=2)")
    with pytest.raises(OptionError, match="vhr: alpha must be a number >= 0, got -1"):
        strategy("vcd+vhr(alpha=-1)")


written = st.fixed_dictionaries(
    {},
    optional={
        "gain": st.floats(0, 9) | st.integers(0, 9) | st.none(),
        "where": st.sampled_from(["all", "last"]),
        "plain": st.floats(-3.4e38, 3.4e38),
        "count": st.integers(),
        "on": st.booleans(),
        "text": st.text("ab'\"\\()+, =\n%", max_size=8),
        "dims": st.lists(st.integers(), max_size=3).map(tuple),
        "maybe": st.none() | st.integers(),
    },
)


@given(written, written)
def test_what_a_strategy_writes_it_reads_back(one: dict[str, Any], two: dict[str, Any]):
    first, second = Knobs(**one), Knobs(**two)
    assert strategy(str(first)) == first
    both = strategy(f"{first}+vcd+{second}")
    assert [str(part) for part in both.parts] == [str(first), "vcd", str(second)]
    assert both.parts == (first, strategy("vcd"), second)
    assert strategy(str(both)) == both


def test_the_readmes_strategy_runs_without_a_rule(llava, pictures):
    @dataclass(frozen=True)
    class Mine(mmhall.Strategy):
        name: ClassVar[str] = "mine"

        strength: float = 0.5

        def prepare(self, adapter, inputs):
            if "pixel_values" not in inputs:
                return mmhall.Session()
            blind = mmhall.Branch(adapter.without_image(inputs))
            return mmhall.Session(branches=[blind], combine=lambda step: step.main - self.strength * step.branches[0])

    asked = (pictures[1], "What is on the left of the picture?")
    plain = llava.generate(*asked, max_new_tokens=8).token_ids
    assert llava.generate(*asked, Mine(0), max_new_tokens=8).token_ids == plain
    contrast = strategy("vdd(alpha=0.5, beta=0)")  # the same up to scale: (1 + a) main - a other, a = s / (1 - s)
    mine = llava.generate(*asked, Mine(1 / 3), max_new_tokens=8)
    assert mine.token_ids == llava.generate(*asked, contrast, max_new_tokens=8).token_ids != plain
    assert str(Mine(2)) == "mine(strength=2.0)"
    with pytest.raises(OptionError, match="mine: strength must be a finite number, got 'x'"):
        Mine("x")
