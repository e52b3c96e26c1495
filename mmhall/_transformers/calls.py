"""What `generate` prepares, and the inputs of a single pass of a model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import Cache, GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers import PreTrainedModel as Model
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches as tiles_of

__all__ = ["CACHE", "captured", "first_inputs", "grown", "next_inputs", "tiles_of", "untouched"]

# 5.24 renamed the argument; the old name is accepted with a warning, the new one was not known before.
CACHE = next(
    name
    for name in ("cache", "past_key_values")
    if name in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)
_NOTHING_READ = CausalLMOutputWithPast()  # the cache is ours and grows in place: outputs need not bring it back
_OF_THE_LAST_REQUEST = ("rope_deltas",)  # M-RoPE families note on the model where the text of a request goes on


def captured(
    model: Model, inputs: Mapping[str, Tensor], config: GenerationConfig
) -> tuple[Model, Tensor, dict[str, Any], Cache, LogitsProcessorList, StoppingCriteriaList, GenerationConfig]:
    """Return what `generate` would decode with.

    Args:
        model: The whole vision-language model.
        inputs: What its processor made.
        config: A `Resolved`, so that nothing else decides.

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


def grown(model: Model, kwargs: Mapping[str, Any], count: int) -> dict[str, Any]:
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


@contextmanager
def untouched(model: Model) -> Iterator[None]:
    """Let the model keep what it has noted about the request at hand, whatever else is read meanwhile."""
    noted = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for name in _OF_THE_LAST_REQUEST
        if name in vars(module)
    ]
    try:
        yield
    finally:
        for module, name, value in noted:
            setattr(module, name, value)
