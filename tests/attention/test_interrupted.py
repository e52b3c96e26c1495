"""A pass that a user interrupts: torch calls no hook behind it, and nothing of it may steer what comes next."""

from __future__ import annotations

import pytest
import torch

from mmhall.adapters import adapter_for
from mmhall.attention import Op, active
from mmhall.attention._passes import current_passes
from tests.attention.tower import REQUESTS
from tests.zoo import ZOO


class Interrupt(Op):
    """Edits the first layer's attention, and interrupts in the second if told to."""

    def __init__(self):
        self.now = True

    def edit_output(self, call, output):
        if self.now and call.layer == 1:
            raise KeyboardInterrupt
        return output * 2


def test_nothing_steers_the_next_pass():
    adapter = adapter_for(*ZOO["llava"]())
    inputs, op = adapter.inputs(REQUESTS), Interrupt()
    with torch.no_grad():
        wanted = adapter.model(**inputs).logits
        with pytest.raises(KeyboardInterrupt), active(adapter.plan([op])):
            adapter.model(**inputs)
        op.now = False
        assert current_passes() is None
        assert torch.equal(adapter.model(**inputs).logits, wanted)
    adapter.close()
