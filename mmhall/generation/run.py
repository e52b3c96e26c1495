"""Decode one batch with one strategy: the place where session, plan and transformers' `generate` meet."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mmhall.adapters.base import Adapter
from mmhall.attention import active
from mmhall.errors import OptionError, PromptError
from mmhall.generation.loop import FiniteGuard, StackedContrast, decode
from mmhall.generation.settings import Settings
from mmhall.strategies import Session, Strategy

_DRAWING = threading.Lock()


def run(
    adapter: Adapter,
    inputs: dict[str, Tensor],
    method: Strategy,
    settings: Settings,
    config: GenerationConfig,
    streamer: BaseStreamer | None = None,
    left: threading.Event | None = None,
) -> Tensor:
    """Decode a batch.

    Args:
        adapter: The model.
        inputs: A batch as the adapter makes it.
        method: The strategy.
        settings: What was asked for.
        config: The same laid over the model's own settings.
        streamer: Gets tokens as they are chosen; without beams only.
        left: Stops decoding once it is set.

    Returns:
        Prompt and new tokens of each row, (batch, position); finished rows are padded.

    Raises:
        PromptError: Prompt and answer exceed the model's context.
        OptionError: The strategy cannot be combined with these settings.
        GenerationError: No token can be chosen.
    """
    prompt, limit = inputs["input_ids"].shape[1], adapter.context_length
    if prompt + settings.max_new_tokens > limit:
        raise PromptError(
            f"{prompt} prompt tokens and {settings.max_new_tokens} new ones exceed the model's context of {limit}; "
            "lower max_new_tokens"
        )
    session = method.prepare(adapter, inputs)
    processors = [FiniteGuard()]
    if session.combine is not None and settings.num_beams > 1:
        _check_stackable(method, config)
        processors.insert(0, StackedContrast(session))
    arguments: dict[str, Any] = {
        "generation_config": config,
        "logits_processor": LogitsProcessorList(processors),
        "stopping_criteria": StoppingCriteriaList([_Left(left)] if left is not None else []),
    }
    plan, drawing = adapter.plan(session.ops), _seeded(settings.seed) if settings.do_sample else nullcontext()
    with torch.inference_mode(), active(plan), drawing:
        if session.combine is not None and settings.num_beams > 1:
            return _beams(adapter, inputs, session, arguments)
        loop = session.loop or (partial(decode, session=session) if session.combine is not None else None)
        how = {"streamer": streamer} if loop is None else {"custom_generate": partial(loop, streamer=streamer)}
        rows: Tensor = adapter.model.generate(**inputs, **arguments, **how)
        return rows


def _beams(adapter: Adapter, inputs: Mapping[str, Tensor], session: Session, arguments: Mapping[str, Any]) -> Tensor:
    """Search with the branches stacked under the main rows, and return the main rows."""
    stacked = adapter.stack([inputs, *session.branches])
    rows: Tensor = adapter.model.generate(**stacked, **arguments)
    padding = stacked["input_ids"].shape[1] - inputs["input_ids"].shape[1]
    return rows[: len(inputs["input_ids"]), padding:]


def _check_stackable(method: Strategy, config: GenerationConfig) -> None:
    """Refuse what transformers would do to each stacked row by itself, so that the copies fall out of step."""
    for option, neutral in (("do_sample", False), ("repetition_penalty", 1.0)):
        value = getattr(config, option)
        if value not in (None, neutral):
            raise OptionError("generation", option, value, f"{neutral} with num_beams > 1 and {method.name}")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's process-wide generator, one thread at a time, and put it back afterwards."""
    with _DRAWING, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class _Left(StoppingCriteria):
    """Stops when whoever reads a stream has left."""

    def __init__(self, left: threading.Event) -> None:
        self._left = left

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self._left.is_set(), device=input_ids.device)
