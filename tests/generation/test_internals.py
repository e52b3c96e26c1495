"""What mmhall takes from inside transformers: a failure here says what changed, and who relies on it."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache, GenerationConfig
from transformers.cache_utils import (
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from mmhall.attention.door import NAME
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, built, ours, theirs

pytestmark = QUIET

HELD = (DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer, DummyLayer)


def handed(name, requests=REQUESTS[:2], **settings):
    """What `generate` hands a callable in place of its own decoding."""
    held = {}

    def hold(
        model,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        **kwargs,
    ):
        held.update(
            model=model,
            ids=input_ids,
            processors=logits_processor,
            criteria=stopping_criteria,
            config=generation_config,
            kwargs=kwargs,
        )
        return input_ids

    inputs = ours(name).inputs(requests)
    config = GenerationConfig(max_new_tokens=5, pad_token_id=0, eos_token_id=2, **settings)
    theirs(name).generate(**inputs, generation_config=config, custom_generate=hold)
    return inputs, held


def prefilled(name):
    """A state right after the prompt: the model that decodes, its ids, its kwargs with the cache."""
    _, held = handed(name)
    model, kwargs = held["model"], held["kwargs"]
    with torch.inference_mode():
        read = model.prepare_inputs_for_generation(held["ids"], is_first_iteration=True, **kwargs)
        outputs = model(**read, return_dict=True)
    return model, held["ids"], {**kwargs, "past_key_values": outputs.past_key_values}


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_hands_over_a_prepared_request(name):
    inputs, held = handed(name, repetition_penalty=1.5, max_length=None)
    user = "generation/prepare.py captures it from `generate(custom_generate=...)`"
    assert torch.equal(held["ids"], inputs["input_ids"]), f"the prompt is not handed over as it was; {user}"
    assert isinstance(held["kwargs"].get("past_key_values"), DynamicCache), f"no empty DynamicCache; {user}"
    assert held["kwargs"]["past_key_values"].get_seq_length() == 0, f"the cache is not empty; {user}"
    assert held["config"].max_length == held["ids"].shape[1] + 5, f"max_length is not prompt and answer; {user}"
    assert held["kwargs"]["attention_mask"].shape == held["ids"].shape, f"the mask has another shape; {user}"
    assert len(held["processors"]) == 1, f"expected one logits processor, got {held['processors']}; {user}"
    assert len(held["criteria"]) == 2, f"expected a length and an end criterion, got {held['criteria']}; {user}"
    outside = theirs(name).language_model if "blip" in name else theirs(name)
    assert held["model"] is outside, f"another model decodes; {user}"


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
def test_inputs_of_a_step_are_prepared_as_asked(name):
    model, ids, kwargs = prefilled(name)
    user = "generation/branches.py calls prepare_inputs_for_generation with it"
    longer = torch.cat([ids, ids[:, -1:]], dim=1)
    read = CausalLMOutputWithPast(past_key_values=kwargs["past_key_values"])
    grown = model._update_model_kwargs_for_generation(read, dict(kwargs), is_encoder_decoder=False)
    step = model.prepare_inputs_for_generation(longer, next_sequence_length=1, **grown)
    assert step["input_ids"].shape == (2, 1), f"next_sequence_length=1 does not leave the last token; {user}"
    assert step["past_key_values"] is grown["past_key_values"], f"the cache is not passed on; {user}"
    assert step.get("pixel_values") is None, f"pictures are read again at every step; {user}"
    assert step.get("inputs_embeds") is None, f"embeddings are read again at every step; {user}"
    if "position_ids" in step:
        assert step["position_ids"].shape[-1] == 1, f"position ids are not cut to the last token; {user}"
    first = model.prepare_inputs_for_generation(ids, is_first_iteration=True, **kwargs)
    pictures = {"pixel_values", "inputs_embeds", "mm_encoder_outputs", "multimodal_encoder_outputs", "image_features"}
    assert any(first.get(key) is not None for key in pictures), (
        f"is_first_iteration=True passes no picture on, only {sorted(first)}; {user}"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_kwargs_grow_by_one_position_a_step(name):
    model, _, kwargs = prefilled(name)
    user = "generation/branches.py steps with model._update_model_kwargs_for_generation"
    cache = DynamicCache()
    given = {
        **kwargs,
        "token_type_ids": torch.tensor([[0, 1], [1, 1]]),
        "mm_token_type_ids": torch.tensor([[1, 0], [0, 1]]),
        "attention_mask": torch.tensor([[0, 1], [1, 1]]),
        "position_ids": torch.tensor([[[0, 3], [0, 5]]]),
    }
    read = CausalLMOutputWithPast(past_key_values=cache)
    grown = model._update_model_kwargs_for_generation(read, given, is_encoder_decoder=False)
    assert grown["past_key_values"] is cache, f"the cache of the outputs is not taken over; {user}"
    wanted = {
        "token_type_ids": [[0, 1, 1], [1, 1, 1]],
        "mm_token_type_ids": [[1, 0, 0], [0, 1, 0]],
        "attention_mask": [[0, 1, 1], [1, 1, 1]],
        "position_ids": [[[0, 3, 4], [0, 5, 6]]],
    }
    for key, value in wanted.items():
        assert grown[key].tolist() == value, f"{key} no longer grows to {value}; {user}"


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_hold_what_is_joined(name):
    _, ids, kwargs = prefilled(name)
    user = "generation/caches.py joins it"
    cache, (rows, positions) = kwargs["past_key_values"], ids.shape
    assert type(cache) is DynamicCache, f"the cache is a {type(cache).__name__}; {user}"
    assert cache.get_seq_length() == positions, f"get_seq_length is not the prompt's length; {user}"
    for index, layer in enumerate(cache.layers):
        assert type(layer) in HELD, f"layer {index} is a {type(layer).__name__}; {user}"
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            for states in ("conv_states", "recurrent_states"):
                held = getattr(layer, states, None)
                assert isinstance(held, dict), f"{states} is no dict by state; {user}"
                assert all(len(state) == rows for state in held.values()), f"{states} are not rows first; {user}"
        elif not isinstance(layer, DummyLayer):
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
    user = "generation/caches.py tries tokens side by side in it"
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
    *_, kwargs = prefilled(name)
    user = "generation/branches.py repeats and reorders rows with Cache.reorder_cache"
    cache, held = kwargs["past_key_values"], []
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
    user = "attention/door.py binds a decoder with set_attn_implementation and reads config._attn_implementation"
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


def test_a_generation_config_tells_what_it_was_given():
    config = GenerationConfig(repetition_penalty=1.5, top_k=5)
    told = config.to_diff_dict()
    assert (told.get("repetition_penalty"), told.get("top_k")) == (1.5, 5), (
        f"to_diff_dict gives {told}; generation/settings.py lays settings over the model's own with it"
    )
    assert "temperature" not in told, "to_diff_dict gives values nobody set; generation/settings.py would keep them"
