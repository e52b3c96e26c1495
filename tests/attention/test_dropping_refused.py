"""What cannot do without dropped tokens is refused by name, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, StaticCache

from mmhall._transformers import caches
from mmhall._transformers.calls import CACHE
from mmhall.attention import Drop, Op, active
from mmhall.errors import CompositionError, ModelError
from mmhall.strategies import Session
from tests.attention.test_dropping import BATCH, REFUSED, See, bound, some, stepped, tokens, ways
from tests.generation.reference import QUIET

pytestmark = QUIET


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_cannot_do_without_tokens_are_refused(name):
    layer, reason = REFUSED[name]
    adapter = bound(name)
    dropped = torch.tensor([[False, True, False]])
    with pytest.raises(ModelError, match=f"tokens cannot be dropped from layer {layer} on: {reason}"):
        adapter.plan([Drop(layer, dropped)])
    assert adapter.plan([Drop(layer, ~dropped & dropped)]).modules == {}


def test_attention_that_counts_positions_by_itself_is_refused():
    with pytest.raises(ModelError, match="counts positions by itself"):
        bound("llama4").plan([Drop(3, torch.tensor([[False, True, False]]))])


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="there is no layer 3 to drop tokens from: the model's are 0 to 2"):
        bound("llava").plan([Drop(3, torch.tensor([[True, False]]))])


def test_ops_inside_layers_with_missing_tokens_are_refused_by_name():
    class Write(Op):
        sites, layers = frozenset({"mlp"}), frozenset({2})

    class Keep(Op):
        def keep(self, call, keys, values):
            return keys, values

    class Remask(Op):
        def remask(self, call):
            return None

    class Read(Op):
        sites, layers = frozenset({"in"}), frozenset({1})

    adapter, drop = bound("llava"), Drop(1, torch.tensor([[True, False]]))
    for op in (Remask(), Read()):
        with pytest.raises(CompositionError, match=f"{type(op).__name__} edits states or keys inside layer 1"):
            adapter.plan([drop, op])
    with pytest.raises(
        CompositionError, match="Keep edits states or keys inside layer 1, where tokens of the prompt are"
    ):
        adapter.plan([drop, Keep()])
    with pytest.raises(CompositionError, match="Write edits states or keys inside layer 2"):
        adapter.plan([Write(), drop])
    with pytest.raises(CompositionError, match="two strategies drop tokens of the prompt"):
        adapter.plan([drop, Drop(2, torch.tensor([[True, False]]))])
    assert adapter.plan([drop, See({0, 2})]).drop is drop


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        (torch.tensor([[0, 1]]), "torch.int64 of shape"),
        (torch.tensor([True, False]), r"of shape \(2,\)"),
        (torch.tensor([[False, True]]), "the last token of a prompt cannot be dropped"),
    ],
)
def test_what_cannot_be_dropped_is_refused(dropped, message):
    with pytest.raises(CompositionError, match=message):
        Drop(1, dropped)


def test_tokens_of_other_prompts_are_refused():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    dropped = some(adapter, inputs)
    for wrong in (dropped[:2], torch.nn.functional.pad(dropped, (1, 0)), dropped[:, 1:]):
        with pytest.raises(CompositionError, match="the tokens to drop are those of"):
            stepped(adapter, inputs, Session([Drop(1, lambda wrong=wrong: wrong)]), 0)


@torch.inference_mode()
def test_caches_of_other_kinds_are_refused_by_name():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    drop, _ = ways("llava", inputs)
    config = adapter.decoder.config
    for given, name in ((StaticCache(config, max_cache_len=256), "StaticCache"), (DynamicCache(), None)):
        with active(adapter.plan([drop])):
            if name is None:
                adapter.model(**inputs, **{CACHE: given})
                assert [type(layer).__name__ for layer in given.layers] == ["DynamicLayer", "ShortLayer", "ShortLayer"]
            else:
                with pytest.raises(ModelError, match=f"of a cache of kind {name}; use a dynamic cache"):
                    adapter.model(**inputs, **{CACHE: given})


@torch.inference_mode()
def test_a_prompt_read_otherwise_is_refused_rather_than_masked_wrongly():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    drop, _ = ways("llava", inputs)
    length, read = inputs["input_ids"].shape[1], DynamicCache(config=adapter.decoder.config)
    adapter.model(**inputs, **{CACHE: read})
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    step = {"input_ids": tokens(3, 0)[:, None], "attention_mask": mask, CACHE: read}
    with active(adapter.plan([drop]), length), pytest.raises(ModelError, match="has read this prompt without dropping"):
        adapter.model(**step)
    begun = DynamicCache(config=adapter.decoder.config)
    text = {"input_ids": tokens(30, 0).view(3, 10), CACHE: begun}
    adapter.model(**text)
    with active(adapter.plan([drop]), length), pytest.raises(ModelError, match="must be read in one pass"):
        adapter.model(**text)
    with active(adapter.plan([Drop(1, lambda: None)]), 2), pytest.raises(ModelError, match="no prompt was read"):
        adapter.model(**text)


@torch.inference_mode()
def test_nothing_is_left_behind_after_an_exception():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    drop, _ = ways("llava", inputs)
    before = adapter.model(**inputs).logits
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in adapter.model.modules()]

    def broken(*call):
        raise RuntimeError("broken")

    breaking = adapter.layers[2].mlp.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="broken"), active(adapter.plan([drop])):
        adapter.model(**inputs)
    breaking.remove()
    assert hooks == [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in adapter.model.modules()]
    assert torch.equal(adapter.model(**inputs).logits, before)


@torch.inference_mode()
def test_a_pass_without_the_plan_is_untouched_while_it_stands():
    adapter = bound("llava")
    inputs = adapter.inputs(BATCH)
    drop, _ = ways("llava", inputs)
    before = adapter.model(**inputs).logits
    with active(adapter.plan([drop])):
        with active(None):
            assert torch.equal(adapter.model(**inputs).logits, before)
        assert not torch.equal(adapter.model(**inputs).logits[:, -1], before[:, -1])


def test_a_short_layer_counts_positions_and_forgets_them_when_reset():
    layer = caches.ShortLayer(5)
    assert layer.get_seq_length() == 0
    layer.update(torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4))
    assert layer.get_seq_length() == 8
    assert layer.get_mask_sizes(1) == (9, 0)
    layer.reset()
    assert layer.get_seq_length() == 0
    layer.update(torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 3, 4))
    assert layer.get_seq_length() == 3
