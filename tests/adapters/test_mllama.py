"""What Mllama's limits say of batches is so, and no more than that."""

from __future__ import annotations

import torch

from mmhall.adapters._base import Request
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._run import prepare_inputs
from mmhall.generation._settings import Settings
from mmhall.generation._state import prefill
from tests.generation.reference import QUIET, ours, picture

pytestmark = QUIET
FIRST, SECOND = picture(40, 40, 4), picture(64, 32, 8)


def logits(*requests):
    adapter = ours("mllama")
    with torch.inference_mode():
        config = Settings(max_new_tokens=2).resolved(adapter.generator)
        return prefill(PlannedBatch(prepare_inputs(adapter, adapter.inputs(requests), config))).logits


def test_prompts_with_fewer_pictures_than_others_are_slightly_off():
    one, two = Request("Is there a dog?", (FIRST,)), Request("Which is larger?", (FIRST, SECOND))
    mixed, alone = logits(one, two), torch.cat([logits(one), logits(two)])
    assert 1e-5 < (mixed[0] - alone[0]).abs().max() < 1e-3
    torch.testing.assert_close(mixed[1], alone[1], rtol=0, atol=1e-5)
    assert "5e-4" in ours("mllama").limits


def test_prompts_with_equally_many_pictures_are_not():
    requests = Request("Is there a dog?", (FIRST,)), Request("What?", (SECOND,))
    torch.testing.assert_close(logits(*requests), torch.cat([*map(logits, requests)]), rtol=0, atol=1e-5)
