"""The speed benchmark runs, and every variant it times says what it must say."""

from __future__ import annotations

import gc
from statistics import median

import pytest
import torch

from mmhall.benchmarks.timing import model, speed
from mmhall.decoders import STRATEGIES
from mmhall.errors import OptionError
from mmhall.strategies import strategy

TINY = model.Size(2, 128, torch.float32)


@pytest.fixture
def small_heap():
    """Garbage is collected before every run: what all tests have imported need not be looked through each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:vdgd. the description")  # of a random model may be empty
def test_every_variant_is_timed_against_plain_generate(small_heap):
    reported = []
    costs = speed.measure(TINY, "cpu", turns=1, new_tokens=3, progress=reported.append)
    names = [cost.name for cost in costs]
    assert names[0] == speed.PLAIN
    assert {"probe of the newest row", "bias on image columns", "vcd", "vdd", speed.BEAMS, "opera"} <= set(names)
    assert len(reported) * (speed.TURNS + 1) == speed.runs() * 2
    for cost in costs:
        assert len(cost.first) == len(cost.step) == 1
        assert all(ratio > 0 for ratio in (*cost.first, *cost.step))
        assert all(seconds > 0 for seconds in cost.seconds)
    first, later = zip(*(cost.seconds for cost in costs), strict=True)
    assert median(first) > median(later)
    assert set(costs[0].first) == set(costs[0].step) == {1.0}
    assert {cost.name for cost in costs if cost.over == speed.BEAMS} == {"beam", "opera"}
    assert set(STRATEGIES.names()) - speed.UNTIMED <= {name.split("(")[0] for name in names}
    _, *rows = speed.table(costs)
    assert [row[0] for row in rows] == names
    assert rows[0][1] == "1.00 (1.00-1.00)"


def test_every_strategy_is_timed_or_said_not_to_be():
    timed = {method.name for method in speed.strategies_to_time()}
    assert timed | speed.UNTIMED == set(STRATEGIES.names())
    assert not timed & speed.UNTIMED


@pytest.mark.slow
def test_given_strategies_are_timed_alone(small_heap):
    reported, methods = [], [strategy("vaf"), strategy("beam")]
    costs = speed.measure(TINY, "cpu", methods, turns=1, new_tokens=3, progress=reported.append)
    assert [(cost.name, cost.over) for cost in costs] == [
        (speed.PLAIN, speed.PLAIN),
        (speed.BEAMS, speed.PLAIN),
        ("vaf", speed.PLAIN),
        ("beam", speed.BEAMS),
    ]
    assert len(reported) == speed.runs(methods, turns=1)


def test_the_model_has_the_size_and_the_request_that_are_described():
    adapter = model.random_adapter(TINY, "cpu")
    assert len(adapter.layers) == 2
    assert adapter.model.config.text_config.hidden_size == 128
    request = model.timed_request(adapter)
    assert adapter.image_mask(request["input_ids"]).sum() == model.IMAGE_TOKENS == 576
    assert f"{request['input_ids'].shape[1]} prompt tokens of which 576 image" in model.describe_request(TINY)


def test_a_search_without_steps_is_refused():
    with pytest.raises(OptionError, match="speed: strategy must be one that needs no second model or picture"):
        speed.make_timed("cgd(clip='ViT-B-32/laion2b_s34b_b79k')")
