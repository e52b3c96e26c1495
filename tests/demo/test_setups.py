"""Set-ups as clients send them: every field is checked."""

from __future__ import annotations

import json
import math

import pytest

from mmhall.demo.setups import Setup, read_setup
from mmhall.errors import MmhallError, OptionError
from tests.demo.test_limits import BAD_SETTINGS

LEAST = {"prompt": "What is in this image?", "strategies": ["greedy", "vcd(alpha=0.5)"]}


def test_a_set_up_is_what_was_told():
    made, methods = read_setup(
        {**LEAST, "max_new_tokens": 7.0, "temperature": 1, "seed": 3, "present": ["cup", " cup"]}
    )
    assert made == Setup("What is in this image?", ("greedy", "vcd(alpha=0.5)"), 7, 1.0, 3, ("cup",))
    assert tuple(map(str, methods)) == made.strategies
    assert made.settings == {"max_new_tokens": 7, "do_sample": True, "temperature": 1.0, "seed": 3}


def test_what_is_left_out_has_its_usual_value():
    made, _ = read_setup(LEAST)
    assert made == Setup(LEAST["prompt"], tuple(LEAST["strategies"]), 128, 0.0, 0, None)
    assert made.settings == {"max_new_tokens": 128}


def test_no_objects_are_other_than_not_known():
    assert read_setup({**LEAST, "present": []})[0].present == ()
    assert read_setup({**LEAST, "present": None})[0].present is None


def test_its_data_make_it_again():
    made, _ = read_setup({**LEAST, "temperature": 0.7, "present": ["cup"]})
    assert read_setup(json.loads(json.dumps(made.data())))[0] == made


@pytest.mark.parametrize("settings", BAD_SETTINGS, ids=lambda settings: str(settings)[:30])
def test_a_field_out_of_bounds_is_refused(settings):
    with pytest.raises(MmhallError):
        read_setup({**LEAST, **settings})


@pytest.mark.parametrize("told", [None, [], "x", 5, [("prompt", "x")]])
def test_what_is_no_object_is_refused(told):
    with pytest.raises(OptionError, match="the set-up"):
        read_setup(told)


@pytest.mark.parametrize("missing", ["prompt", "strategies"])
def test_what_is_missing_is_refused(missing):
    with pytest.raises(MmhallError, match=missing):
        read_setup({name: value for name, value in LEAST.items() if name != missing})


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 10**400])
@pytest.mark.parametrize("field", ["temperature", "seed", "max_new_tokens"])
def test_numbers_that_are_none_are_refused(field, number):
    with pytest.raises(OptionError, match=field):
        read_setup({**LEAST, field: number})
