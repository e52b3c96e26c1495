"""Strategies as `custom_generate` callables, for code that calls `model.generate` itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    ProcessorMixin,
    StoppingCriteriaList,
)
from transformers.generation import BaseStreamer, GenerateDecoderOnlyOutput

from mmhall._transformers.calls import CACHE, is_given_by_caller, preserve_notes
from mmhall._transformers.settings import ResolvedSettings
from mmhall.adapters import PER_POSITION, Adapter, Inputs, adapter_for
from mmhall.attention import Op
from mmhall.errors import ModelError, OptionError, PromptError
from mmhall.generation._job import Job, StepScores
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._run import decode, plan_batch
from mmhall.strategies import Strategy, strategy as make_strategy

# `generate` passes a callable the arguments that its signature names, unchanged: raw pictures arrive this way.
_RAW = (
    *(key for key in PER_POSITION if key not in ("input_ids", "attention_mask")),
    "pixel_values",
    "image_sizes",
    "batch_num_images",
    "image_grid_thw",
    "image_position_ids",
    "pixel_attention_mask",
    "aspect_ratio_ids",
    "aspect_ratio_mask",
)


class CustomGenerate:
    """A strategy as a `custom_generate` callable; make one with `custom_generate`."""

    def __init__(
        self,
        method: Strategy,
        num_beams: int | None,
        processor: ProcessorMixin | None,
        streamer: BaseStreamer | None,
    ) -> None:
        """Store what `generate` does not pass on."""
        self._method, self._processor, self._streamer = method, processor, streamer
        self._num_beams = method.beams if num_beams is None else num_beams
        usual = inspect.signature(self._decode).parameters
        raw = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None) for key in _RAW]
        named = [p for p in usual.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        self.__signature__ = inspect.Signature([*named, *raw])

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | GenerateDecoderOnlyOutput:
        """Decode in `generate`'s place."""
        return self._decode(*args, **kwargs)

    def _decode(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        self._check(model, generation_config, kwargs)
        sequences = generation_config.num_return_sequences or 1
        inputs = _inputs(input_ids, kwargs, sequences)
        values = {
            **generation_config.to_dict(),
            "num_beams": self._num_beams,
            "num_return_sequences": sequences,
            "max_new_tokens": generation_config.max_length - input_ids.shape[1],
            "max_length": None,
        }
        config = ResolvedSettings(**values)
        adapter, keep = adapter_for(model, self._processor), _step_scores(generation_config)
        try:
            adapter.check_placeholders(inputs)
            session = self._method.fitted(adapter).prepare(adapter, inputs)
            seeds = torch.randint(2**62, (len(inputs["input_ids"]),)).tolist() if config.do_sample else []
            job = Job(
                *(adapter, inputs, session, config, seeds, self._method.name, self._streamer),
                keep=keep,
                share=False,
                leave=False,  # the caller's processors, criteria and scores are those of whole steps
            )
            main = _plan_batch(adapter, inputs, session.ops, config)
            main = replace(main, prepared=replace(main.prepared, copies=sequences))
            main.prepared.processors[:], main.prepared.criteria[:] = logits_processor, stopping_criteria
            with preserve_notes(model, adapter.request_notes):
                new = decode(job, main)
        finally:
            adapter.close()
        rows = torch.cat([input_ids, new], dim=1)
        if generation_config.return_dict_in_generate:
            parts = (None, None) if keep is None else (keep.scores, keep.logits)
            scores, logits = (None if part is None else tuple(part) for part in parts)
            return GenerateDecoderOnlyOutput(sequences=rows, scores=scores, logits=logits)  # type: ignore[arg-type]
        return rows

    def _check(self, model: PreTrainedModel, config: GenerationConfig, kwargs: Mapping[str, Any]) -> None:
        """Raise an error for arguments of `generate` that are not supported."""
        if (config.num_beams or 1) > 1:
            raise OptionError("generate", "num_beams", config.num_beams, "1; give num_beams to mmhall.custom_generate")
        for option in ("output_attentions", "output_hidden_states"):
            if getattr(config, option):
                raise OptionError("generate", option, True, "left out; mmhall returns sequences, scores and logits")
        if kwargs.get("inputs_embeds") is not None:
            raise ModelError(
                f"{model.config.model_type}: generate hands over embeddings instead of a prompt and pictures; "
                "load the model with mmhall.load and use LVLM.generate"
            )
        if is_given_by_caller(kwargs.get(CACHE)):
            kind = type(kwargs[CACHE]).__name__
            raise OptionError(
                "generate", CACHE, kind, "left out: mmhall reads the whole prompt into a cache of its own"
            )
        if config.do_sample and self._num_beams > 1:
            raise OptionError("generate", "do_sample", True, f"False with {self._num_beams} beams")


def _inputs(input_ids: Tensor, kwargs: Mapping[str, Any], sequences: int) -> dict[str, Tensor]:
    """Return the prompts and pictures that `generate` was called with, without its repetitions of prompts."""
    prompts, mask = input_ids[::sequences], kwargs.get("attention_mask")
    attended = torch.ones_like(prompts) if mask is None else mask[::sequences]
    raw = {key: kwargs[key] for key in _RAW if kwargs.get(key) is not None}
    return {"input_ids": prompts, "attention_mask": attended, **raw}


def _step_scores(config: GenerationConfig) -> StepScores | None:
    """Return an empty record for the scores and logits that `generate` is to return; None: it returns none."""
    if not config.return_dict_in_generate or not (config.output_scores or config.output_logits):
        return None
    option = "output_scores" if config.output_scores else "output_logits"
    return StepScores(option, [] if config.output_scores else None, [] if config.output_logits else None)


def _plan_batch(adapter: Adapter, inputs: Inputs, ops: Sequence[Op], config: ResolvedSettings) -> PlannedBatch:
    try:
        return plan_batch(adapter, inputs, ops, config)
    except StopIteration as error:  # M-RoPE counts pictures by their placeholders
        raise PromptError("pictures and their placeholders in the prompt do not match") from error


def custom_generate(
    strategy: str | Strategy,
    *,
    num_beams: int | None = None,
    processor: ProcessorMixin | None = None,
    streamer: BaseStreamer | None = None,
    **options: Any,
) -> CustomGenerate:
    """Build a callable for `model.generate(**inputs, custom_generate=...)` from a strategy.

    All other settings are `generate`'s own arguments; it allows num_return_sequences > 1 with sampling only. Sampling
    uses torch's global seed. Tuned options are not looked up: options that are left open get the published value for
    the model, or the general default.

    `return_dict_in_generate=True` returns what `generate` does: with `output_scores=True` the scores that each token
    was chosen from (the strategy's, after the processors), with `output_logits=True` the logits of the steered model,
    without its branches. Beams and searches have none, and raise an error if asked for them.

    The model and its processor are restored afterwards. Where the call or the model's config asks for no cache or a
    static one, a dynamic one is used, which changes no answer. A quantised or offloaded cache is refused, and so is a
    cache object: mmhall fills its own. transformers passes no tokenizer to a callable and refuses `stop_strings`; use
    `stopping_criteria=[StopStringCriteria(tokenizer, strings)]` instead.

    Args:
        strategy: Name such as "vcd(alpha=0.5)", or a strategy.
        num_beams: Beams of the search; None: the strategy's own, mostly 1. Give it here, not to `generate`, which
            would repeat each prompt for every beam.
        processor: The model's; with it, picture-free inputs also leave out the marks around a picture.
        streamer: Gets new tokens, without the prompt; `generate` does not pass its own on.
        **options: Options of the strategy.

    Raises:
        UnknownNameError: No such strategy or option.
        OptionError: An option is out of range.
    """
    if num_beams is not None and (isinstance(num_beams, bool) or not isinstance(num_beams, int) or num_beams < 1):
        raise OptionError("custom_generate", "num_beams", num_beams, "an integer >= 1")
    return CustomGenerate(make_strategy(strategy, **options), num_beams, processor, streamer)
