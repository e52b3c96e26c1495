"""Arguments that transformers' `generate` prepares, and the inputs of a single pass of a model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel as Model,
    StoppingCriteriaList,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

# 5.24 renamed the argument: the old name gives a warning since then, the new name did not exist before.
CACHE = next(
    name
    for name in ("cache", "past_key_values")
    if name in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)
BATCH_AXIS = {  # axis of rows in inputs with one value for each position; the axis of positions follows it
    "attention_mask": 0,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
    "cross_attention_mask": 0,
    "position_ids": -2,  # M-RoPE puts an axis of (time, row, column) before it
}
LAYER_AXES = {  # axes of rows and of positions, in arguments of a decoder layer other than states and mask
    "position_embeddings": (-3, -2),
    "position_ids": (-2, -1),  # M-RoPE puts an axis before them
}
# Mllama in transformers 5.17 warns about its own calls.
warnings.filterwarnings("ignore", "`hidden_state` is deprecated", FutureWarning)

_NO_OUTPUT = CausalLMOutputWithPast()  # without the cache, which mmhall passes itself and which grows in place


def capture_generate(
    model: Model, inputs: Mapping[str, Tensor], config: GenerationConfig
) -> tuple[Model, Tensor, dict[str, Any], Cache, LogitsProcessorList, StoppingCriteriaList, GenerationConfig]:
    """Call `generate` and return the arguments with which it would decode.

    Args:
        model: The whole vision-language model.
        inputs: Output of its processor.
        config: A `ResolvedSettings`, so that the model's own settings have no effect.

    Returns:
        The model that decodes (for BLIP its inner language model); token ids, (batch, position); other arguments of
        its forward; an empty cache; logits processors; stopping criteria; the completed settings.
    """
    captured: list[Any] = []

    def hold(
        model: Model,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        cache = kwargs.pop(CACHE)
        captured.append((model, input_ids, kwargs, cache, logits_processor, stopping_criteria, generation_config))
        return input_ids

    model.generate(**inputs, generation_config=config, custom_generate=hold)
    arguments: tuple[Any, ...] = captured[0]
    return arguments  # type: ignore[return-value]


def first_inputs(model: Model, ids: Tensor, kwargs: Mapping[str, Any], cache: Cache) -> dict[str, Any]:
    """Return the arguments of the pass that reads prompts, (batch, position), with their pictures, into a cache."""
    arguments = {**kwargs, CACHE: cache}
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(ids, is_first_iteration=True, **arguments)
    return inputs


def extend_inputs(model: Model, kwargs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Extend masks, position ids and other inputs with one value for each position by `count` tokens."""
    longer = dict(kwargs)
    for _ in range(count):
        longer = model._update_model_kwargs_for_generation(_NO_OUTPUT, longer, is_encoder_decoder=False)
    return longer


def next_inputs(model: Model, ids: Tensor, kwargs: Mapping[str, Any], cache: Cache, count: int) -> dict[str, Any]:
    """Return the arguments of the pass that reads the last `count` of all tokens, (batch, position), into a cache."""
    arguments = {**kwargs, CACHE: cache}
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(ids, next_sequence_length=count, **arguments)
    return inputs


def with_candidates(inputs: Mapping[str, Any], tokens: Tensor) -> dict[str, Any]:
    """Extend a model's inputs from one token for each row to several at the same position, (batch, candidates)."""
    count = tokens.shape[1]
    wide = {**inputs, "input_ids": tokens.contiguous()}
    for key, axis in BATCH_AXIS.items():
        if wide.get(key) is None:
            continue
        length = wide[key].shape[axis + 1]
        last = wide[key].narrow(axis + 1, length - 1, 1).repeat_interleave(count, dim=axis + 1)
        # masks, and in older versions of transformers other inputs too, cover all positions
        wide[key] = last if length == 1 else torch.cat([wide[key].narrow(axis + 1, 0, length - 1), last], dim=axis + 1)
    if "logits_to_keep" in wide:
        wide["logits_to_keep"] = count
    return wide


def request_logits(kwargs: Mapping[str, Any], positions: Tensor) -> dict[str, Any]:
    """Request the logits at some positions of a prompt only, 0-based, where the model supports that.

    Positions, not a count: with a count transformers would drop rows of Gemma 4's last layers without a mask for it.
    """
    return {**kwargs, "logits_to_keep": positions} if "logits_to_keep" in kwargs else dict(kwargs)


def is_about_pictures(error: ValueError) -> bool:
    """Whether an error says that pictures and placeholders do not match."""
    return "image tokens" in str(error)


def is_given_by_caller(cache: Cache | None) -> bool:
    """Whether a cache from `generate` was passed in by the caller of `generate`."""
    return bool(getattr(cache, "_is_user_defined", False))


@contextmanager
def preserve_notes(model: Model, names: Sequence[str]) -> Iterator[None]:
    """Restore attributes in which a model stores facts about the current request, after other passes inside.

    Args:
        model: The whole model.
        names: Names of such attributes, on any of its modules.
    """
    notes = [(part, name, getattr(part, name)) for part in model.modules() for name in names if name in vars(part)]
    try:
        yield
    finally:
        for part, name, value in notes:
            setattr(part, name, value)
