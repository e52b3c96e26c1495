from __future__ import annotations

import pytest

from mmhall.benchmarks.timing.overhead import TimedModel, measure, table


def test_a_clocked_model_answers_as_the_model_and_tells_its_time(llava, pictures):
    clocked = TimedModel(llava)
    asked = [(pictures[0], "What is this?")]
    wanted = llava.generate_batch(asked, "greedy", max_new_tokens=4)
    assert clocked.generate_batch(asked, "greedy", max_new_tokens=4)[0].text == wanted[0].text
    assert clocked.seconds > 0
    assert clocked.model is llava.model


@pytest.mark.slow
def test_every_turn_is_measured_and_told(llava):
    """The runner's own calls are part of its time."""
    found = measure(llava, scenes=2, turns=1)
    assert [o.benchmark for o in found] == ["pope", "chair"]
    assert all(len(o.ratios) == len(o.outside) == 1 and min(o.outside) > 1 for o in found)
    assert [len(row) for row in table(found)] == [5, 5, 5]
