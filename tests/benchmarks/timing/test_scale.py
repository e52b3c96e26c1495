from __future__ import annotations

import multiprocessing

import pytest

from mmhall.benchmarks.timing import scale

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """Fork the processes that are timed: they need not load libraries again."""
    monkeypatch.setattr(scale, "_spawn", multiprocessing.get_context("fork"))


@pytest.mark.slow
def test_two_processes_fill_a_store_together():
    rate = scale.measure_store(2, items=40)
    assert rate.processes == 2
    assert rate.batches > 0
    assert 0 < rate.slowest < 60
    assert [len(row) for row in scale.table([rate])] == [4, 4]


@pytest.mark.long
@pytest.mark.slow
def test_one_worker_and_two_answer_the_same_items():
    found = scale.measure_workers(scenes=2, turns=1)
    assert found.items > 4
    assert len(found.seconds) == len(found.ratios) == 1
    assert found.ratios[0] > 0
