"""Layer specs: as Python slices do, and in percent of any depth."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

import mmhall
from mmhall.decoders import STRATEGIES
from mmhall.errors import OptionError
from mmhall.options import rules
from mmhall.strategies._layers import format_layers, is_layer_spec, parse_layers, select_layers
from tests.generation.reference import ours

depths = st.integers(1, 80)
percents = st.decimals(0, "99.9", places=1).map(str) | st.integers(0, 100).map(str)


def layers(spec, depth=32, kinds=None, usable=("full",)):
    return sorted(parse_layers(spec, kinds or ["full"] * depth, usable, "vhr", "layers"))


def share(percent):
    return Fraction(percent) / 100


@pytest.mark.parametrize(
    ("owner", "option", "spec", "first", "last"),
    [
        ("vhr", "layers", "56%:", 18, 31),
        ("gift", "saliency", "35%", 11, 11),
        ("gift", "layers", "37%:71%", 12, 22),
        ("var", "layers", "6%:-1", 2, 30),
        ("pai", "layers", "6%:", 2, 31),
        ("vaf", "layers", "28%:44%", 9, 14),
    ],
)
def test_general_defaults_are_the_published_layers_of_a_7b_model(owner, option, spec, first, last):
    assert rules(STRATEGIES.load(owner))[option].general == spec
    assert layers(spec) == list(range(first, last + 1))


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("1, 18:32", [1, *range(18, 32)]),
        ("-1", [31]),
        (" -3:-1 ", [29, 30]),
        ("3:5,4:7,4", [3, 4, 5, 6]),
        (":", list(range(32))),
        (":2", [0, 1]),
        ("30:", [30, 31]),
        ("-32", [0]),
        ("0:32", list(range(32))),
        ("3%, 56%:", [0, *range(18, 32)]),
        ("12.5%:15.625%", [4]),
        (":9.4%", [0, 1, 2, 3]),
        ("100%", [31]),
        ("0%", [0]),
        ("1,50%:-14", [1, 16, 17]),
    ],
)
def test_specs_of_32_layers(spec, wanted):
    assert layers(spec) == wanted


@given(depths, st.data())
def test_slices_are_pythons(depth, data):
    end = st.integers(-depth, depth)
    low, high = data.draw(end), data.draw(end)
    wanted = list(range(depth))[low:high]
    if wanted:
        assert layers(f"{low}:{high}", depth) == wanted
    else:
        with pytest.raises(OptionError):
            layers(f"{low}:{high}", depth)


@given(depths, percents, percents)
def test_a_part_holds_the_layers_that_begin_in_it(depth, low, high):
    low, high = sorted((low, high), key=share)
    begun = [layer for layer in range(depth) if share(low) <= Fraction(layer, depth) < share(high)]
    got = layers(f"{low}%:{high}%", depth)
    assert got == (begun or got)
    assert len(got) == max(1, len(begun))
    assert got[0] == min(depth - 1, math.ceil(share(low) * depth))


@given(depths, percents)
def test_a_percentage_is_the_layer_that_lies_there(depth, percent):
    (layer,) = layers(f"{percent}%", depth)
    assert Fraction(layer, depth) <= share(percent)
    assert share(percent) < Fraction(layer + 1, depth) or (percent, layer) == ("100", depth - 1)


def test_percentages_are_exact():
    """As floats, 58% of 50 is 28.999999999999996."""
    assert layers("58%", 50) == [29]
    assert layers("58%:59%", 50) == [29]


@given(depths, percents)
def test_every_model_has_a_layer_in_any_part_of_it(depth, percent):
    for spec in ("56%:", "35%", "37%:71%", "6%:-1", "6%:", "28%:44%", f"{percent}%:", f":{percent}%"):
        got = layers(spec, depth)
        assert got
        assert set(got) <= set(range(depth))


@given(depths.flatmap(lambda depth: st.tuples(st.just(depth), st.sets(st.integers(0, depth - 1), min_size=1))))
def test_what_is_written_reads_back(case):
    depth, chosen = case
    assert is_layer_spec(format_layers(chosen))
    assert layers(format_layers(chosen), depth) == sorted(chosen)


def test_runs_are_written_as_slices():
    assert format_layers({1, 4, 5, 6}) == "1, 4:7"
    assert format_layers({0}) == "0"


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "a",
        "1,",
        "1,,2",
        "::",
        "1:2:3",
        "1.5",
        "%",
        "5 %",
        "-5%",
        "101%",
        "100.5%",
        "3-5",
        "1 2",
        "--1",
        "50%:40%",
        "1, 60%:50%",
        "0x3",
        "1e1",
        "None",
        "all",
        "[1, 2]",
    ],
)
def test_nonsense_is_refused_when_built(spec):
    assert not is_layer_spec(spec)
    with pytest.raises(OptionError, match=r'vhr: layers must be layers such as "1, 18:32", "2:-1" or "50%:", got '):
        mmhall.strategy("vhr", layers=spec)


@pytest.mark.parametrize("spec", [3, (1, 2), ["1"], 0.5])
def test_layers_are_text(spec):
    with pytest.raises(OptionError, match="vhr: layers must be layers such as"):
        mmhall.strategy("vhr", layers=spec)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("32", r"a layer from 0 to 31 of this model, got '32'"),
        ("1, -33", r"a layer from 0 to 31 of this model, got '-33'"),
        ("2:33", r"within the 32 layers of this model, got '2:33'"),
        ("-40:", r"within the 32 layers of this model, got '-40:'"),
        ("5:5", r"among layers of this model that attend so: 0:32, got '5:5'"),
        ("9:3", r"among layers of this model that attend so: 0:32, got '9:3'"),
    ],
)
def test_layers_a_model_lacks_are_refused(spec, expected):
    assert is_layer_spec(spec)
    with pytest.raises(OptionError, match=f"^vhr: layers must be {expected}"):
        layers(spec)


MIXED = ["linear", "full", "linear", "sliding", "cross", "full"]


def test_layers_of_other_kinds_drop_out():
    assert layers(":", kinds=MIXED, usable={"full", "sliding"}) == [1, 3, 5]
    assert layers("0:4", kinds=MIXED) == [1]
    with pytest.raises(OptionError, match=r"among layers of this model that attend so: 1, 5, got '2:4'"):
        layers("2:4", kinds=MIXED)


def test_a_part_without_such_a_layer_takes_the_nearest():
    assert layers("0%:10%", kinds=MIXED) == [1]
    assert layers("60%:80%", kinds=MIXED) == [5]


def test_no_such_layer_at_all_is_refused_even_in_percent():
    with pytest.raises(OptionError):
        layers("50%:", kinds=["linear"] * 4)


@pytest.mark.parametrize(("name", "wanted"), [("llava", {0, 1, 2}), ("qwen3_5", {1, 3}), ("gemma3", {0, 1, 2, 3})])
def test_a_models_own_kinds_count(name, wanted):
    assert select_layers(ours(name), mmhall.strategy("pai"), "layers", ":") == wanted


def test_an_error_names_the_strategy_the_option_and_the_model(llava, pictures):
    for spec, option in (("vaf(layers='3')", "layers"), ("gift(saliency='7')", "saliency")):
        with pytest.raises(OptionError, match=rf"^{spec[:3]}\w*: {option} must be a layer from 0 to 2 of this model"):
            llava.generate(pictures[0], "What?", spec, max_new_tokens=1)
