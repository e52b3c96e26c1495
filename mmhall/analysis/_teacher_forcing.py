"""Read prompts that end in a written answer, in one pass."""

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
    """Refuse an answer that does not fit behind its prompt.

    Raises:
        PromptError: It does not.
    """
    prompt, limit = inputs["input_ids"].shape[1], adapter.context_length
    if prompt + width > limit:
        raise PromptError(f"{prompt} prompt tokens and {width} of the answer exceed the model's context of {limit}")


def padded(answers: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return answers as one block of token ids, (batch, longest); shorter ones end in zeros."""
    block = torch.zeros(len(answers), max(map(len, answers)), dtype=torch.long, device=device)
    for row, answer in zip(block, answers, strict=True):
        row[: len(answer)] = torch.tensor(answer, dtype=torch.long, device=device)
    return block


def read_answer(adapter: Adapter, inputs: Inputs, width: int, ops: Sequence[Op] = ()) -> Tensor:
    """Read prompts that end in an answer, in one pass.

    Args:
        adapter: The model.
        inputs: A batch as `Adapter.append_answer` makes it.
        width: Tokens of the answer.
        ops: What to see on the way.

    Returns:
        The logits from which each token of the answer was predicted, (batch, width, V) float32.
    """
    with active(adapter.plan(ops, inputs)):  # pictures may be encoded while the batch is prepared
        main = prepare(adapter.model_for(inputs), inputs, minimal_settings(adapter.generator, 1))
        length = main.input_ids.shape[1]
        kept = torch.arange(length - width - 1, length, device=main.input_ids.device)
        logits, _ = replace(main, kwargs=request_logits(main.kwargs, kept)).read()
    return logits[:, -(width + 1) : -1].float()
