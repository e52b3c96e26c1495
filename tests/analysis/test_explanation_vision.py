"""What `explain` says of ops in the vision tower."""

from __future__ import annotations

import pytest

from mmhall.attention import SELF_ATTENTION, VISION
from mmhall.lvlm import LVLM
from mmhall.strategies import Session, Strategy
from tests.attention.tower import Edit, waved
from tests.zoo import ZOO


class Looking(Edit):
    """Edits states and weighs attention."""

    kinds = VISION | SELF_ATTENTION

    def bias(self, call):
        return None


class Tower(Strategy):
    """Asks for three things in the tower."""

    name = "tower"

    def prepare(self, adapter, inputs):
        return Session([Edit("features", waved), Edit("mlp", waved, [1]), Looking("out", waved, [0, 1])])


@pytest.fixture
def told():
    lvlm = LVLM(*ZOO["llava"]())
    yield lvlm.explain(Tower())
    lvlm.adapter.close()


def test_layers_of_the_tower_are_told_from_those_of_the_decoder(told):
    assert [(op.layers, op.kinds, op.vision_layers) for op in told.ops] == [
        ((), (), ()),
        ((), (), (1,)),
        ((0, 1), ("full",), (0, 1)),
    ]


def test_it_is_written_for_a_reader(told):
    text = " ".join(str(told).split())
    assert "edits the features that the vision tower hands to the projector." in text
    assert "edits states at mlp; in layer 1 of the vision tower." in text
    assert "in layers 0:2 (full); in layers 0:2 of the vision tower. Edits states and weighs attention." in text
