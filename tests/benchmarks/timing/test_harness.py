"""The clock of the harness's parts, and the table of a small run."""

from __future__ import annotations

import threading

import pytest

from mmhall.benchmarks.timing.harness import HARNESS, MENTIONS, MODEL, REST, Clock, measure, table
from mmhall.lvlm import LVLM
from mmhall.results.store import Store


def test_time_counts_to_the_innermost_part_and_in_a_whole_part_to_that():
    """Each part is asked for the time where it begins and ends: 0, 1, 2 and so on.

    rest 0-1, store 1-2, leases 2-3, store 3-4, rest 4-5, mentions 5-6 with the store in it, rest from 6.
    """
    clock = Clock(iter(range(100)).__next__)
    with clock.part("store"), clock.part("leases"):
        pass
    with clock.part(MENTIONS, whole=True), clock.part("store"):
        thread = threading.Thread(target=lambda: clock.part(MODEL).__enter__())
        thread.start()
        thread.join()  # another thread has no part
    assert dict(clock.seconds) == {REST: 2, "store": 2, "leases": 1, MENTIONS: 1}


@pytest.mark.slow
def test_a_run_is_clocked_by_part_and_nothing_stays_replaced(llava):
    before = LVLM.generate_batch, Store.add, Store.writing, type(llava.adapter).inputs
    measured = measure(llava, scenes=2, turns=2)
    assert [each.benchmark for each in measured] == ["chair", "pope"]
    for each in measured:
        assert all(seconds > 0 for part in HARNESS for seconds in each.seconds[part])
        assert each.share(MODEL, *HARNESS) == pytest.approx([1, 1])
    assert before == (LVLM.generate_batch, Store.add, Store.writing, type(llava.adapter).inputs)
    assert len({len(line) for line in table(measured)}) == 1
