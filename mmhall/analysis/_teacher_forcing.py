"""Teacher forcing: read prompts with given answers in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmhall._transformers.calls import request_logits
from mmhall._transformers.settings import minimal_settings
from mmhall.adapters import Adapter, Inputs
from mmhall.attention import Op, active
from mmhall.errors import PromptError
from mmhall.generation import prepare


def check_room(adapter: Adapter, inputs: Inputs, width: int) -> None:
    """Check that prompt and answer fit into the model's context.

    Raises:
        PromptError: They exceed it.
    """
    prompt, limit = inputs["input_ids"].shape[1], adapter.context_length
    if prompt + width > limit:
        raise PromptError(f"{prompt} prompt tokens and {width} of the answer exceed the model's context of {limit}")


def pad_answers(answers: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Stack answers as token ids, (batch, longest); shorter ones end in zeros."""
    block = torch.zeros(len(answers), max(map(len, answers)), dtype=torch.long, device=device)
    for row, answer in zip(block, answers, strict=True):
        row[: len(answer)] = torch.tensor(answer, dtype=torch.long, device=device)
    return block


def fit_answers(adapter: Adapter, inputs: Inputs, answers: Sequence[Sequence[int]]) -> Tensor:
    """Stack answers as `pad_answers` does, and check that they fit behind their prompts.

    Raises:
        PromptError: A prompt and the longest answer exceed the model's context.
    """
    tokens = pad_answers(answers, inputs["input_ids"].device)
    check_room(adapter, inputs, tokens.shape[1])
    return tokens


def read_answer(adapter: Adapter, inputs: Inputs, width: int, ops: Sequence[Op] = ()) -> Tensor:
    """Read prompts that end in an answer, in one pass.

    Args:
        adapter: The model.
        inputs: A batch from `Adapter.append_answer`.
        width: Number of tokens of the longest answer.
        ops: Ops that read the pass.

    Returns:
        The logits from which each token of the answer was predicted, (batch, width, V) float32.
    """
    with active(adapter.plan(ops, inputs)):  # pictures may be encoded while the batch is prepared
        main = prepare(adapter.model_for(inputs), inputs, minimal_settings(adapter.generator, 1))
        length = main.input_ids.shape[1]
        positions = torch.arange(length - width - 1, length, device=main.input_ids.device)
        logits, _ = replace(main, kwargs=request_logits(main.kwargs, positions)).read()
    return logits[:, -(width + 1) : -1].float()


def read_prompts(adapter: Adapter, inputs: Inputs, ops: Sequence[Op]) -> Tensor:
    """Read prompts in one pass, with ops.

    Args:
        adapter: The model.
        inputs: A batch from the adapter.
        ops: Ops that read or edit the pass.

    Returns:
        The logits of the next token, (batch, V) float32.
    """
    with active(adapter.plan(ops, inputs)):  # pictures may be encoded while the batch is prepared
        main = prepare(adapter.model_for(inputs), inputs, minimal_settings(adapter.generator, 1))
        logits, _ = main.read()
    return logits[:, -1].float()
