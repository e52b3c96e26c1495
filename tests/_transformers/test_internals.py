"""What mmhall takes from inside transformers: a failure says what changed, and which function relies on it."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from mmhall._transformers.calls import CACHE, capture_generate, extend_inputs, first_inputs, next_inputs
from mmhall._transformers.settings import ResolvedSettings
from mmhall.attention._hook import NAME
from tests.generation.reference import EMPTY, FAMILIES, QUIET, REQUESTS, built, ours, theirs

pytestmark = QUIET

HELD = (DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer, EMPTY)


def handed(name, requests=REQUESTS[:2], **settings):
    """What `generate` hands over in place of its own decoding."""
    inputs = ours(name).inputs(requests)
    config = ResolvedSettings(max_new_tokens=5, pad_token_id=0, eos_token_id=2, **settings)
    return inputs, capture_generate(theirs(name), inputs, config)


def prefilled(name):
    """A request right after its prompt: the model that decodes, its ids, its kwargs and its cache."""
    _, (model, ids, kwargs, cache, *_) = handed(name)
    with torch.inference_mode():
        model(**first_inputs(model, ids, kwargs, cache), return_dict=True)
    return model, ids, kwargs, cache


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_hands_over_a_prepared_request(name):
    inputs, (model, ids, kwargs, cache, processors, criteria, config) = handed(name, repetition_penalty=1.5)
    user = "calls.capture_generate"
    assert torch.equal(ids, inputs["input_ids"]), f"the prompt is not handed over as it was; {user}"
    assert type(cache) is DynamicCache, f"no DynamicCache but a {type(cache).__name__}; {user}"
    assert cache.get_seq_length() == 0, f"the cache is not empty; {user}"
    assert not {"cache", "past_key_values"} & kwargs.keys(), f"the cache has a second name; {user}"
    assert config.max_length == ids.shape[1] + 5, f"max_length is not prompt and answer; {user}"
    assert kwargs["attention_mask"].shape == ids.shape, f"the mask has another shape; {user}"
    assert len(processors) == 1, f"expected one logits processor, got {processors}; {user}"
    assert len(criteria) == 2, f"expected a length and an end criterion, got {criteria}; {user}"
    outside = theirs(name).language_model if "blip" in name else theirs(name)
    assert model is outside, f"another model decodes; {user}"


def test_generate_hands_a_callable_what_its_signature_names():
    got = {}

    def hold(
        model,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        pixel_values=None,
        **kwargs,
    ):
        got["pixels"] = pixel_values
        return input_ids

    inputs = ours("llava").inputs(REQUESTS[:1])
    theirs("llava").generate(**inputs, max_new_tokens=1, custom_generate=hold)
    assert got["pixels"] is inputs["pixel_values"], (
        "generate no longer hands raw pictures to a callable whose signature names them; generation/custom.py "
        "builds its branches from them"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pass_grows_the_cache_it_was_given(name):
    _, ids, _, cache = prefilled(name)
    assert cache.get_seq_length() == ids.shape[1], (
        "the model read into another cache than the one it was given; calls.first_inputs and next_inputs rely on that"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_inputs_of_a_step_are_prepared_as_asked(name):
    model, ids, kwargs, cache = prefilled(name)
    user = "calls.next_inputs"
    longer = torch.cat([ids, ids[:, -1:]], dim=1)
    step = next_inputs(model, longer, extend_inputs(model, kwargs, 1), cache, 1)
    assert step["input_ids"].shape == (2, 1), f"next_sequence_length=1 does not leave the last token; {user}"
    assert step[CACHE] is cache, f"the cache is not passed on; {user}"
    assert step.get("pixel_values") is None, f"pictures are read again at every step; {user}"
    assert step.get("inputs_embeds") is None, f"embeddings are read again at every step; {user}"
    if "position_ids" in step:
        assert step["position_ids"].shape[-1] == 1, f"position ids are not cut to the last token; {user}"
    first = first_inputs(model, ids, kwargs, cache)
    pictures = {"pixel_values", "inputs_embeds", "mm_encoder_outputs", "multimodal_encoder_outputs", "image_features"}
    assert any(first.get(key) is not None for key in pictures), (
        f"is_first_iteration=True passes no picture on, only {sorted(first)}; calls.first_inputs"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_kwargs_grow_by_one_position_a_step(name):
    model, _, kwargs, _ = prefilled(name)
    given = {
        **kwargs,
        "token_type_ids": torch.tensor([[0, 1], [1, 1]]),
        "mm_token_type_ids": torch.tensor([[1, 0], [0, 1]]),
        "attention_mask": torch.tensor([[0, 1], [1, 1]]),
        "position_ids": torch.tensor([[[0, 3], [0, 5]]]),
    }
    longer = extend_inputs(model, given, 2)
    wanted = {
        "token_type_ids": [[0, 1, 1, 1], [1, 1, 1, 1]],
        "mm_token_type_ids": [[1, 0, 0, 0], [0, 1, 0, 0]],
        "attention_mask": [[0, 1, 1, 1], [1, 1, 1, 1]],
        "position_ids": [[[0, 3, 4, 5], [0, 5, 6, 7]]],
    }
    for key, value in wanted.items():
        assert longer[key].tolist() == value, f"{key} no longer grows to {value}; calls.grown"
    assert given["attention_mask"].shape == (2, 2), "what was given has changed; calls.grown"


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_hold_what_is_joined(name):
    _, ids, _, cache = prefilled(name)
    user, (rows, positions) = "caches.join", ids.shape
    assert type(cache) is DynamicCache, f"the cache is a {type(cache).__name__}; {user}"
    assert cache.get_seq_length() == positions, f"get_seq_length is not the prompt's length; {user}"
    for index, layer in enumerate(cache.layers):
        assert type(layer) in HELD, f"layer {index} is a {type(layer).__name__}; {user}"
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            for states in ("conv_states", "recurrent_states"):
                held = getattr(layer, states, None)
                assert isinstance(held, dict), f"{states} is no dict by state; {user}"
                assert all(len(state) == rows for state in held.values()), f"{states} are not rows first; {user}"
        elif not isinstance(layer, EMPTY):
            across = name == "mllama" and ours(name).kinds[index] == "cross"
            length = layer.get_seq_length()
            assert across or length == positions, f"layer {index} holds {length} of {positions} positions; {user}"
            if isinstance(layer, DynamicSlidingWindowLayer):
                assert layer.cumulative_length == positions, f"cumulative_length counts something else; {user}"
                length = min(length, layer.sliding_window - 1)
            for part in ("keys", "values"):
                shape = getattr(layer, part).shape
                assert (shape[0], shape[2]) == (rows, length), f"{part} are not (rows, heads, positions, size); {user}"


def test_sliding_layers_hold_on_to_what_they_would_drop():
    user = "caches.keep_rows"
    cache = DynamicCache()
    cache.layers.append(DynamicSlidingWindowLayer(5))
    layer, states = cache.layers[0], torch.arange(9.0)[None, None, :, None]
    cache.update(states[:, :, :7], states[:, :, :7], 0)
    assert layer.keys.flatten().tolist() == [3, 4, 5, 6], f"it holds something else than window - 1 keys; {user}"
    cache.activate_past_recording()
    assert layer.record_past, f"activate_past_recording does not set record_past; {user}"
    keys, _ = cache.update(states[:, :, 7:], states[:, :, 7:], 0)
    assert layer.keys.flatten().tolist() == [3, 4, 5, 6, 7, 8], f"it dropped keys; {user}"
    assert keys.flatten().tolist() == [3, 4, 5, 6, 7, 8], f"it returns other keys than the mask covers; {user}"
    layer.keys, layer.record_past, layer.cumulative_length = layer.keys[:, :, :5], False, 8
    assert cache.get_mask_sizes(1, 0) == (5, 4), f"cumulative_length no longer says where the mask begins; {user}"


@pytest.mark.parametrize("name", FAMILIES)
def test_caches_are_reordered_by_row(name):
    *_, cache = prefilled(name)
    user, held = "generation/branches.py repeats and reorders rows with Cache.reorder_cache", []
    assert isinstance(cache, Cache)
    for layer in cache.layers:
        linear = isinstance(layer, LinearAttentionCacheLayerMixin)
        held.append(layer.recurrent_states[0].clone() if linear else layer.keys)
    order = torch.tensor([1, 0, 1])
    cache.reorder_cache(order)
    for layer, before in zip(cache.layers, held, strict=True):
        linear = isinstance(layer, LinearAttentionCacheLayerMixin)
        after = layer.recurrent_states[0] if linear else layer.keys
        assert before is None or torch.equal(after, before[order]), f"{type(layer).__name__} differs; {user}"


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_replaced_in_the_decoder_alone(name):
    model, _ = built(name)
    decoder = next(part for part in model.get_decoder().modules() if hasattr(part, "layers"))
    user = "attention.attend_through"
    assert ours(name).decoder.config._attn_implementation == NAME, f"a bound decoder has another attention; {user}"
    assert decoder.config._attn_implementation == "sdpa", f"attention is not SDPA from the start; {user}"
    assert NAME in AttentionInterface().valid_keys(), f"AttentionInterface.register registers nothing; {user}"
    assert NAME in AttentionMaskInterface().valid_keys(), f"AttentionMaskInterface.register registers nothing; {user}"
    others = [part.config for part in model.modules() if hasattr(part, "config") and part.config is not decoder.config]
    before = [config._attn_implementation for config in others]
    decoder.set_attn_implementation(NAME)
    assert decoder.config._attn_implementation == NAME, f"the decoder's config does not follow; {user}"
    assert [config._attn_implementation for config in others] == before, f"other parts follow; {user}"


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_pictures_are_packed_by_a_function_of_the_model(name):
    model = theirs(name) if name == "llava_next" else theirs(name).model
    extra = "vision_feature_select_strategy" if name == "llava_next" else "vision_aspect_ratio"
    taken = set(inspect.signature(model.pack_image_features).parameters)
    assert {"image_sizes", "image_newline", extra} <= taken, (
        f"pack_image_features takes {sorted(taken)}; adapters/tiled.py sends boxes through it to learn token places"
    )
