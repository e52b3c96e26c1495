"""Attention inside the vision tower, read and edited, against a copy of the model whose tower attends eagerly."""

from __future__ import annotations

import copy
import math
from collections import Counter

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from mmhall.adapters import adapter_for
from mmhall.adapters._anatomy import Anatomy
from mmhall.attention import VISION, Op, active
from tests.attention.tower import REQUESTS
from tests.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FAMILIES = ("llava", "qwen2_5_vl", "mllama", "gemma4", "mistral3", "llama4")
"""One call for all, one for each window, padded tiles, padded patches, all pictures in one row, tiles."""
LOWEST = torch.finfo(torch.float32).min


class Eager:
    """A copy of a model whose tower attends eagerly, with edits of scores, weights and head outputs.

    Edits take the layer, what it computed for all rows of a call, and how many patches its calls before had.

    Attributes:
        maps: Weights of the latest pass by layer, (B, H, Q, K) a call.
    """

    def __init__(self, model):
        self.model = copy.deepcopy(model)
        vision = Anatomy(self.model).vision
        for index, layer in enumerate(vision.layers):
            for part in layer.modules():
                part.eager = self, index
        vision.module.set_attn_implementation("eager_tower")
        self._edits, self.maps, self._before = {}, {}, Counter()

    def logits(self, inputs, **edits):
        self._edits, self.maps, self._before = edits, {}, Counter()
        with torch.no_grad():
            return self.model(**inputs).logits

    def edited(self, what, layer, tensor, before):
        return self._edits[what](layer, tensor, before) if what in self._edits else tensor

    def attend(self, layer, query, key, value, mask, scaling):
        before = self._before[layer]
        self._before[layer] += query.shape[2]
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(-1, -2) * scaling
        if mask is not None:
            scores = scores.masked_fill(~mask, LOWEST) if mask.dtype == torch.bool else scores + mask
        scores = self.edited("scores", layer, scores, before)
        probs = self.edited("probs", layer, scores.softmax(-1), before)
        self.maps.setdefault(layer, []).append(probs)
        return self.edited("output", layer, (probs @ value).transpose(1, 2), before).contiguous()


def _attend(module, query, key, value, attention_mask, scaling=None, **kwargs):
    eager, layer = module.eager
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return eager.attend(layer, query, key, value, attention_mask, scale), None


AttentionInterface.register("eager_tower", _attend)
AttentionMaskInterface.register("eager_tower", eager_mask)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    """An adapter, a batch, and the eager copy."""
    model, processor = ZOO[request.param]()
    eager = Eager(model)
    adapter = adapter_for(model, processor)
    yield adapter, adapter.inputs(REQUESTS), eager
    adapter.close()


def read(adapter, inputs, *ops):
    with torch.no_grad(), active(adapter.plan(ops, inputs)):
        return adapter.model(**inputs).logits


def check(case, op, **edits):
    """An op gives what the eager copy gives with the same edits, which is not what it gives without them."""
    adapter, inputs, eager = case
    plain, wanted = eager.logits(inputs), eager.logits(inputs, **edits)
    got = read(adapter, inputs, op)
    assert (wanted - plain).abs().max() > 1e-2
    torch.testing.assert_close(got, wanted, rtol=0, atol=5e-5 * max(5.0, float(wanted.abs().max())))


class Rows(Op):
    """Names all rows."""

    kinds = VISION

    def rows(self, call):
        return torch.arange(call.count)


def test_rows_that_are_seen_are_the_eager_maps(case):
    class See(Rows):
        def __init__(self):
            self.maps = {}

        def see(self, call, rows, probs):
            self.maps.setdefault(call.layer, []).append(probs)

    adapter, inputs, eager = case
    op = See()
    with torch.no_grad():
        plain = adapter.model(**inputs).logits
    assert torch.equal(read(adapter, inputs, op), plain)
    eager.logits(inputs)
    assert op.maps.keys() == eager.maps.keys() == set(range(len(adapter.anatomy.vision.layers)))
    for layer, maps in op.maps.items():
        for got, wanted in zip(maps, eager.maps[layer], strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def hidden(count, before):
    """Mark a third of the columns, by their place among all patches that the layer attends from."""
    return (torch.arange(count) + before) % 3 == 1


def test_columns_are_hidden_from_all_rows(case):
    class Hide(Rows):
        writes = True

        def edit_scores(self, call, rows, scores):
            assert call.start == call.offset
            return scores.masked_fill(hidden(scores.shape[-1], call.offset), -torch.inf)

    check(case, Hide(), scores=lambda layer, s, before: s.masked_fill(hidden(s.shape[-1], before), LOWEST))


def test_a_bias_reweighs_columns(case):
    class Weigh(Op):
        kinds = VISION

        def bias(self, call):
            return torch.where(hidden(call.key.shape[2], call.offset), math.log(4.0), 0.0).view(1, 1, 1, -1)

    check(case, Weigh(), scores=lambda layer, s, before: s + hidden(s.shape[-1], before) * math.log(4.0))


def test_attention_is_made_uniform(case):
    class Uniform(Rows):
        writes = True

        def edit_probs(self, call, rows, probs):
            return torch.full_like(probs, 1 / probs.shape[-1])

    check(case, Uniform(), probs=lambda layer, probs, before: torch.full_like(probs, 1 / probs.shape[-1]))


def test_some_rows_of_some_layers_are_edited(case):
    """In the first layer the second row looks at the first column alone, in each call."""

    class Inward(Op):
        kinds, writes, layers = VISION, True, frozenset({0})

        def rows(self, call):
            return torch.tensor([1])

        def edit_probs(self, call, rows, probs):
            return torch.zeros_like(probs).index_fill(-1, torch.tensor([0]), 1.0)

    def inward(layer, probs, before):
        edited = probs.clone()
        if layer == 0:
            edited[:, :, 1] = torch.zeros(probs.shape[-1]).index_fill(0, torch.tensor([0]), 1.0)
        return edited

    check(case, Inward(), probs=inward)


def test_head_outputs_are_scaled(case):
    class Scale(Op):
        kinds = VISION

        def edit_output(self, call, output):
            return output * torch.linspace(0.2, 1.8, output.shape[2])[:, None]

    check(
        case, Scale(), output=lambda layer, output, before: output * torch.linspace(0.2, 1.8, output.shape[2])[:, None]
    )
