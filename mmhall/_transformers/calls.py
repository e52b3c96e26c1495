"""What `generate` prepares, and the inputs of a single pass of a model."""

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

# 5.24 renamed the argument; the old name is accepted with a warning, the new one was not known before.
CACHE = next(
    name
    for name in ("cache", "past_key_values")
    if name in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)
BATCH_AXIS = {  # of what grows by a position a token; the axis of positions follows it
    "attention_mask": 0,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
    "cross_attention_mask": 0,
    "position_ids": -2,  # M-RoPE puts an axis of (time, row, column) before it
}
LAYER_AXES = {  # of rows and of positions, in what a decoder layer is given beside states and mask
    "position_embeddings": (-3, -2),
    "position_ids": (-2, -1),  # M-RoPE puts an axis before them
}
# Mllama of transformers 5.17 warns of its own calls, which no user can change.
warnings.filterwarnings("ignore", "`hidden_state` is deprecated", FutureWarning)

_NOTHING_READ = CausalLMOutputWithPast()  # the cache is ours and grows in place: outputs need not bring it back


def capture_generate(
    model: Model, inputs: Mapping[str, Tensor], config: GenerationConfig
) -> tuple[Model, Tensor, dict[str, Any], Cache, LogitsProcessorList, StoppingCriteriaList, GenerationConfig]:
    """Return what `generate` would decode with.

    Args:
        model: The whole vision-language model.
        inputs: What its processor made.
        config: A `ResolvedSettings`, so that nothing else decides.

    Returns:
        The model that decodes (of a BLIP, its inner language model); token ids, (batch, position); what its forward
        takes beside them; an empty cache; processors; criteria; the completed settings.
    """
    held: list[Any] = []

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
        held.append((model, input_ids, kwargs, cache, logits_processor, stopping_criteria, generation_config))
        return input_ids

    model.generate(**inputs, generation_config=config, custom_generate=hold)
    found: tuple[Any, ...] = held[0]
    return found  # type: ignore[return-value]


def first_inputs(model: Model, ids: Tensor, kwargs: Mapping[str, Any], cache: Cache) -> dict[str, Any]:
    """Return what the model takes to read prompts, (batch, position), with their pictures, into a cache."""
    given = {**kwargs, CACHE: cache}
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(ids, is_first_iteration=True, **given)
    return inputs


def extend_inputs(model: Model, kwargs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return masks, position ids and the like for so many more tokens."""
    longer = dict(kwargs)
    for _ in range(count):
        longer = model._update_model_kwargs_for_generation(_NOTHING_READ, longer, is_encoder_decoder=False)
    return longer


def next_inputs(model: Model, ids: Tensor, kwargs: Mapping[str, Any], cache: Cache, count: int) -> dict[str, Any]:
    """Return what the model takes to read the last `count` of the tokens so far, (batch, position), into its cache."""
    given = {**kwargs, CACHE: cache}
    inputs: dict[str, Any] = model.prepare_inputs_for_generation(ids, next_sequence_length=count, **given)
    return inputs


def with_candidates(inputs: Mapping[str, Any], tokens: Tensor) -> dict[str, Any]:
    """Widen a model's inputs for one token a row to several that stand at the same position, (batch, siblings)."""
    more = tokens.shape[1]
    wide = {**inputs, "input_ids": tokens.contiguous()}
    for key, axis in BATCH_AXIS.items():
        if wide.get(key) is None:
            continue
        length = wide[key].shape[axis + 1]
        last = wide[key].narrow(axis + 1, length - 1, 1).repeat_interleave(more, dim=axis + 1)
        # masks, and in older versions of transformers more than these, are handed on for all positions
        wide[key] = last if length == 1 else torch.cat([wide[key].narrow(axis + 1, 0, length - 1), last], dim=axis + 1)
    if "logits_to_keep" in wide:
        wide["logits_to_keep"] = more
    return wide


def request_logits(kwargs: Mapping[str, Any], positions: Tensor) -> dict[str, Any]:
    """Ask for the logits at some positions of a prompt, 0-based, where a model can give only those.

    As positions: a number would make transformers drop rows of Gemma 4's last layers without a mask for it.
    """
    return {**kwargs, "logits_to_keep": positions} if "logits_to_keep" in kwargs else dict(kwargs)


def is_about_pictures(error: ValueError) -> bool:
    """Whether a model complains that pictures and placeholders do not match."""
    return "image tokens" in str(error)


def is_given_by_caller(cache: Cache | None) -> bool:
    """Whether a cache that `generate` hands over is one that its caller gave it."""
    return bool(getattr(cache, "_is_user_defined", False))


@contextmanager
def preserve_notes(model: Model, names: Sequence[str]) -> Iterator[None]:
    """Let a model keep what it has noted about the request at hand, whatever else it reads meanwhile.

    Args:
        model: The whole model.
        names: Of the attributes that hold such notes, on any of its modules.
    """
    noted = [(part, name, getattr(part, name)) for part in model.modules() for name in names if name in vars(part)]
    try:
        yield
    finally:
        for part, name, value in noted:
            setattr(part, name, value)
