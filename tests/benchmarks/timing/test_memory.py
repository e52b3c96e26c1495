from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mmhall.benchmarks.timing import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from Linux")

ALONE = """
import json
from dataclasses import asdict
from mmhall.benchmarks.timing import memory
from mmhall.benchmarks.timing.model import SMALL, random_adapter
memory.give_back_at_once()
(peak,) = memory.peaks(random_adapter(SMALL, "cpu"), "greedy", memory.Case(True, 0, 16, 2, (2,)))
print(json.dumps(asdict(peak)))
"""
"""A process of its own: what other tests have left behind is taken and given back in between."""


@pytest.mark.slow
def test_a_batch_is_predicted_before_it_is_measured():
    """From a shorter prompt; tensors are most of what a process takes."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    peak = memory.Peak(**json.loads(done.stdout.splitlines()[-1]))
    assert (peak.count, peak.known < peak.length, peak.new) == (2, True, 2)
    assert 0.9 < peak.predicted / peak.measured < 2
    assert memory.row(peak).startswith("| `greedy` | 2 |")
