"""Forms made from the options of strategies: what they write is read back, and only what is allowed is written."""

from __future__ import annotations

import gradio as gr
import pytest

from mmhall.adapters import adapter_for
from mmhall.decoders import STRATEGIES
from mmhall.demo.forms import list_choices, make_component, option_fields, values_of, write_spec
from mmhall.demo.runs_tab import split_usable
from mmhall.errors import CompositionError, DataError, MmhallError, OptionError
from mmhall.options import rules
from mmhall.strategies import strategy
from tests.decoders.fitted import learners, with_blank_artifacts
from tests.decoders.test_contract import ANY_TEXT

NAMES = list_choices(())
OPTIONS = [
    (name, option)
    for name in NAMES
    for option, rule in rules(STRATEGIES.load(name)).items()
    if not (rule.opens or rule.learned)
]


def another(rule):
    """A value that is allowed and is not the usual one."""
    general = rule.general
    if isinstance(general, bool):
        return not general
    if rule.choices:
        return next(choice for choice in rule.choices if choice != general)
    if isinstance(general, int | float):
        moved = general + (1 if isinstance(general, int) else 0.25)
        return moved if rule.high is None or moved <= rule.high else general / 2
    if isinstance(general, tuple):
        return (3, 5) if rule.holds((3, 5)) else ("a", "b")
    return next(
        text
        for text in ("0:2", "none+unk", "3:-6", "{question} {description}")
        if rule.holds is None or rule.holds(text)
    )


def unallowed(rule):
    """Values that are not allowed, of all sorts."""
    bad = [{}, "no such thing", float("nan")]
    if isinstance(rule.general, int | float) and not isinstance(rule.general, bool):
        bad += [float("inf"), -float("inf"), []]
        bad += [] if rule.low is None else [rule.low - 1]
        bad += [1.5] if isinstance(rule.general, int) else []
        bad += [] if rule.high is None else [rule.high + 1, 10**400]
    return bad


@pytest.fixture(scope="module")
def adapter(embedded):
    adapter = adapter_for(embedded.model, embedded.processor)
    yield with_blank_artifacts(adapter)
    adapter.close()


def test_every_strategy_is_offered_that_opens_nothing_and_needs_no_fit():
    assert set(STRATEGIES.names()) - set(NAMES) == {"cgd", "halc", *learners()}
    assert list_choices(("cgd(clip='x')", "vcd")) == [*NAMES, "cgd(clip='x')"]


@pytest.fixture(scope="module")
def known_of(adapter):
    """The fields of each strategy."""
    return {name: option_fields([name], adapter) for name in NAMES}


def test_fields_left_alone_write_the_bare_name(known_of):
    for name, known in known_of.items():
        values = values_of(name, [name], known)
        assert values == [field.default for field in known], name
        assert write_spec([name], known, values) == name
        assert write_spec([name], known, [None] * len(known)) == name
        assert [field.option for field in known] == [option for owner, option in OPTIONS if owner == name], name


def test_one_field_at_a_time_makes_the_round_trip(known_of):
    for name, option in OPTIONS:
        known = known_of[name]
        (changed,) = [field for field in known if field.option == option]
        value = another(changed.rule)
        typed = repr(value) if isinstance(value, tuple) else value
        spec = write_spec([name], known, [typed if field is changed else field.default for field in known])
        assert spec == str(strategy(name, **{option: value})), option
        assert spec != name
        again = values_of(spec, [name], known)
        assert again == [value if field is changed else field.default for field in known], spec
        assert write_spec([name], known, again) == spec


def test_a_field_out_of_bounds_is_refused(known_of):
    taken = []
    for name, option in OPTIONS:
        known = known_of[name]
        (changed,) = [field for field in known if field.option == option]
        for bad in unallowed(changed.rule):
            if (name, option) in ANY_TEXT and isinstance(bad, str):
                continue  # any text is allowed
            try:
                taken.append(write_spec([name], known, [bad if field is changed else field.default for field in known]))
            except OptionError:
                continue
    assert taken == []


@pytest.mark.parametrize(
    ("parts", "spec"),
    [
        (["vhr", "vcd"], "vhr(alpha=1.2)+vcd(beta=0.3)"),
        (["vhr", "vdd"], "vhr(layers='1, 2:')+vdd(alpha=0.5, free='none+unk')"),
        (["opera", "pai"], "opera(penalty_weights=2.0)+pai(gamma=1.0)"),
        (["var", "vcd"], "var(sink_dims=(3, 5))+vcd"),
        (["gift", "beam"], "gift+beam(num_beams=3)"),
    ],
)
def test_compositions_make_the_round_trip(adapter, parts, spec):
    known = option_fields(parts, adapter)
    assert {field.part for field in known} == {0, 1}
    assert write_spec(parts, known, values_of(spec, parts, known)) == spec


@pytest.mark.parametrize("spec", ["vcd", "vdd+vhr", "", "vhr(alpha=-1)+vdd", "(((", "vhr(", "no such one+vdd"])
def test_a_spec_of_something_else_leaves_the_usual_values(adapter, spec):
    known = option_fields(["vhr", "vdd"], adapter)
    assert values_of(spec, ["vhr", "vdd"], known) == [field.default for field in known]


def test_what_cannot_be_combined_is_refused_when_written(adapter):
    known = option_fields(["vcd", "vdd"], adapter)
    spec = write_spec(["vcd", "vdd"], known, [field.default for field in known])
    with pytest.raises(CompositionError):
        strategy(spec)


def test_an_owned_strategy_keeps_what_it_opens(adapter, clip):
    owned = str(strategy("cgd", clip=str(clip)))
    known = option_fields([owned], adapter)
    assert "clip" not in {field.option for field in known}
    assert write_spec([owned], known, values_of(owned, [owned], known)) == owned


@pytest.mark.parametrize("parts", [["no such one"], ["vcd(alpha=-1)"], ["vcd("]])
def test_fields_of_nothing_are_refused(adapter, parts):
    with pytest.raises(MmhallError):
        option_fields(parts, adapter)


@pytest.mark.slow
def test_each_option_has_a_field_that_says_what_it_is(known_of):
    with gr.Blocks():
        made = {
            (name, field): make_component(field, field.default, (0, field.option))
            for name, known in known_of.items()
            for field in known
        }
    for (name, field), one in made.items():
        assert one.label == f"{name}: {field.option}"
        assert field.rule.describe() in one.info
        assert isinstance(one, gr.Dropdown | gr.Checkbox | gr.Slider | gr.Number | gr.Textbox)


def test_strategies_of_a_run_that_visitors_may_not_ask_for_are_left_out(clip):
    owned = str(strategy("cgd", clip=str(clip)))
    assert split_usable(["greedy", owned, "vcd"], ()) == (["greedy", "vcd"], [owned])
    assert split_usable([owned], (owned,)) == ([owned], [])
    with pytest.raises(DataError, match="none of this run's strategies"):
        split_usable([owned], ())
