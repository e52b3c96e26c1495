"""The declared protocols fit together: steps, published figures, and strategies that the models can carry."""

from __future__ import annotations

import pytest

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.reproduce.pins import DATASETS, MODELS
from mmhall.benchmarks.reproduce.protocol import CONDITIONS, MEAN
from mmhall.benchmarks.reproduce.protocols import PROTOCOLS, protocol_for
from mmhall.benchmarks.run.runs import make_benchmarks
from mmhall.lvlm import LVLM
from tests.zoo import built


def test_every_published_figure_has_a_place_in_its_step():
    for protocol in PROTOCOLS.values():
        steps = {step.name: step for step in protocol.steps}
        assert len(steps) == len(protocol.steps)
        for published in protocol.published:
            step = steps[published.step]
            kinds = {one.name: one for one in make_benchmarks(step.benchmarks)}
            kind = kinds[published.benchmark]
            assert set(published.conditions) <= set(CONDITIONS)
            assert set(published.figures) <= set(step.strategies), (protocol.name, published.source)
            for figures in published.figures.values():
                for group, metric in figures:
                    assert group in (*kind.groups, MEAN)
                    assert metric in {one.name for one in kind.metrics}


def test_every_model_is_pinned_and_plain_greedy_stands_first():
    for name, protocol in PROTOCOLS.items():
        assert protocol_for(None, protocol.model) is protocol_for(name, "anything") is protocol
        assert protocol.model in MODELS
        for step in protocol.steps:
            assert step.strategies[0] == "greedy"
            assert len(step.items) == len(step.benchmarks)
            assert {benchmark(spec).name for spec in step.benchmarks} == set(step.usual)
    for pin in (*MODELS.values(), *DATASETS.values()):
        assert pin.revision is None or len(pin.revision) == 40


@pytest.mark.slow
def test_every_model_family_carries_the_strategies_of_its_protocol():
    for protocol in PROTOCOLS.values():
        lvlm = LVLM(*built(protocol.family), protocol.name)
        for strategy in dict.fromkeys(name for step in protocol.steps for name in step.strategies):
            assert lvlm.explain(strategy).cost.token_rows > 0, (protocol.name, strategy)
