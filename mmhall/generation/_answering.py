"""Build answers from new tokens, with the time and memory that they cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.answers import Answer, DecodedTokens, Usage
from mmhall.attention import PassCount
from mmhall.generation._job import Recipe
from mmhall.models import chat_template


@dataclass(slots=True)
class Measurement:
    """The cost of a block of code.

    Attributes:
        seconds: Wall time; what is looked up counts as if it was computed (`PassCount.looked_up`).
        peak_bytes: Largest GPU memory allocated meanwhile; None on a CPU.
        counted: The decoder's passes, where they are counted.
        start: When it began, by `time.perf_counter`.
    """

    seconds: float = 0.0
    peak_bytes: int | None = None
    counted: PassCount = field(default_factory=PassCount)
    start: float = field(default_factory=time.perf_counter)

    def until_now(self) -> Measurement:
        """Return the cost so far, without memory."""
        return Measurement(self._seconds, None, self.counted, self.start)

    def stop(self) -> None:
        """Set the seconds to those since the start."""
        self.seconds = self._seconds

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self.start + self.counted.looked_up


@contextmanager
def measure(device: torch.device) -> Iterator[Measurement]:
    """Measure wall time and, on a GPU, peak memory; both are set when the block ends."""
    measured, on_gpu = Measurement(), device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    measured.start = time.perf_counter()
    yield measured
    if on_gpu:
        torch.cuda.synchronize(device)
        measured.peak_bytes = torch.cuda.max_memory_allocated(device)
    measured.stop()


def build_answers(
    adapter: Adapter, inputs: Inputs, tokens: Tensor, recipe: Recipe, measured: Measurement
) -> list[Answer]:
    """Build the answer to each prompt of a batch; its further sequences become `Answer.others`.

    Args:
        adapter: The model.
        inputs: The batch of P prompts.
        tokens: New tokens, (P x sequences, length), as `mmhall.generation.run` returns them.
        recipe: The strategy and settings that were used.
        measured: The cost of the whole batch; each answer gets an equal share of time and positions.
    """
    sequences = len(tokens) // len(inputs["attention_mask"])
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    answers = []
    for prompt, length in enumerate(lengths):
        rows = tokens[prompt * sequences : (prompt + 1) * sequences].tolist()
        usage = _usage(measured, len(tokens), length)
        first, *others = (_build_answer(adapter, row, recipe, usage) for row in rows)
        answers.append(replace(first, others=tuple(others)))
    longest = max(each.usage.new_tokens for answer in answers for each in (answer, *answer.others))
    return [_with_longest(answer, longest) for answer in answers]


def _with_longest(answer: Answer, longest: int) -> Answer:
    """Return an answer and its further sequences with the length of the longest answer of their batch."""
    others = tuple(_with_longest(other, longest) for other in answer.others)
    return replace(answer, usage=replace(answer.usage, longest=longest), others=others)


def build_early_answer(
    adapter: Adapter, inputs: Inputs, prompt: int, row: list[int], recipe: Recipe, measured: Measurement
) -> Answer:
    """Build the answer to one prompt of a batch that still runs; its cost is that of the batch until now.

    Args:
        adapter: The model.
        inputs: The batch of prompts.
        prompt: 0-based number of the prompt.
        row: Its new tokens.
        recipe: As in `build_answers`.
        measured: The cost of the batch until now.
    """
    mask = inputs["attention_mask"]
    return _build_answer(adapter, row, recipe, _usage(measured, len(mask), int(mask[prompt].sum())))


def _usage(measured: Measurement, rows: int, prompt_tokens: int) -> Usage:
    """Return the equal share of a batch's cost that one of its rows has; new tokens are not counted yet."""
    return Usage(
        seconds=measured.seconds / rows,
        prompt_tokens=prompt_tokens,
        new_tokens=0,
        peak_bytes=measured.peak_bytes,
        prompt_reads=measured.counted.prompt_reads / rows,
        passes=measured.counted.passes,
        rows=measured.counted.rows / rows,
    )


def _build_answer(adapter: Adapter, row: list[int], recipe: Recipe, usage: Usage) -> Answer:
    """Build an answer from one row of new tokens; `usage` does not count these yet."""
    chat, config = adapter.chat, recipe.config
    stand_in = {} if chat is None or chat.from_processor else {"chat_template": chat_template(adapter)}
    decoded = DecodedTokens.from_row(row, adapter.tokenizer, recipe.end_ids, config.stop_strings or ())
    new = len(decoded.token_ids) + (decoded.stopped_by == "eos")
    return Answer(
        text=decoded.text,
        tokens=tuple(adapter.tokenizer.decode([token]) for token in decoded.token_ids),
        token_ids=decoded.token_ids,
        stopped_by=decoded.stopped_by,
        strategy=str(recipe.strategy),
        origins=dict(recipe.origins),
        settings={**recipe.settings.record(config), **stand_in},
        usage=replace(usage, new_tokens=new, longest=new),
    )
