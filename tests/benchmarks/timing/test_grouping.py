"""The grouping benchmark times what it says, on answers that are the same."""

from __future__ import annotations

import pytest
import torch

from mmhall.benchmarks.timing import grouping, model
from mmhall.generation._shared_prefix import split_prefixes

TINY = model.Size(2, 128, torch.float32)


@pytest.mark.slow
def test_both_ways_are_timed_and_answer_alike(monkeypatch):
    monkeypatch.setattr(grouping, "STRATEGIES", ("vdd",))
    reported = []
    gains = grouping.measure(TINY, "cpu", turns=1, progress=reported.append)
    assert [gain.name for gain in gains] == list(grouping.STRATEGIES)
    assert all(gain.same and len(gain.ratios) == 1 for gain in gains)
    assert len(reported) * (grouping.TURNS + 1) == grouping.runs() * 2
    assert len(grouping.table(gains)) == 1 + len(gains)


def test_pictures_are_shared_and_questions_are_not():
    adapter = model.random_adapter(TINY, "cpu")
    cut = split_prefixes(adapter, grouping.questions(adapter))
    assert len(cut.inputs["input_ids"]) == grouping.PICTURES
    assert cut.of.tolist() == [0] * 6 + [1] * 6
    assert sorted({len(rest) for rest in cut.rest}) == [25, 26, 27]
