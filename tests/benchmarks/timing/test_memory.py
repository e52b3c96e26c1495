from __future__ import annotations

import sys

import pytest

from mmhall.benchmarks.timing import memory
from mmhall.benchmarks.timing.model import SMALL, random_adapter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from Linux")


@pytest.mark.slow
def test_a_batch_is_predicted_before_it_is_measured():
    """From a shorter prompt; tensors are most of what a process takes."""
    memory.give_back_at_once()
    adapter = random_adapter(SMALL, "cpu")
    (peak,) = memory.peaks(adapter, "greedy", memory.Case(True, 0, 16, 2, (2,)))
    assert (peak.count, peak.known < peak.length, peak.new) == (2, True, 2)
    assert 0.9 < peak.predicted / peak.measured < 2
    assert memory.row(peak).startswith("| `greedy` | 2 |")
