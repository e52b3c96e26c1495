"""Prompts that were read together, while they are answered beside others, and what their answers cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import torch

from mmhall.answers import Answer
from mmhall.attention import PassCount, count_passes
from mmhall.errors import MmhallError
from mmhall.generation._answering import Measurement
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._job import Job, StepScores
from mmhall.generation._sampling import Answers
from mmhall.generation._waiting import Asked


@dataclass(frozen=True, slots=True)
class Answered:
    """Prompts that were read together, with their answers, or with the error of the only one.

    Attributes:
        asked: The prompts.
        answers: The answer to each; empty after an error.
        error: Why it has no answer; None: it has one.
    """

    asked: Sequence[Asked]
    answers: Sequence[Answer] = ()
    error: MmhallError | None = None

    def pairs(self) -> Iterator[tuple[int, Answer | MmhallError]]:
        """Return the number of each request with its answer or error."""
        outcomes = self.answers if self.error is None else [self.error]
        return zip((each.number for each in self.asked), outcomes, strict=True)


@dataclass(slots=True, eq=False)
class OpenBatch:
    """Prompts that were read together, while they are answered."""

    asked: list[Asked]
    measured: Measurement = field(default_factory=Measurement)
    job: Job = field(init=False)
    answers: Answers = field(init=False)
    keep: StepScores | None = None

    @property
    def lengths(self) -> list[int]:
        """Number of positions of each prompt, whose inputs were made."""
        return [int(each.read[1]["input_ids"].shape[1]) for each in self.asked if each.read is not None]

    @property
    def picture(self) -> bool:
        """Whether the prompts have pictures."""
        return self.asked[0].read is not None and bool(self.asked[0].read[0].images)

    @property
    def rows(self) -> DecodeBatch:
        """Its rows that are being decoded."""
        return self.answers.rows


@contextmanager
def charged(batches: Sequence[OpenBatch], device: torch.device) -> Iterator[None]:
    """Add the time and passes of the block to the cost of batches, by their numbers of rows."""
    count, began = PassCount(), perf_counter()
    with count_passes(count):
        yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # else the next block would wait for this one's passes
    sizes = [batch.rows.rows for batch in batches] if len(batches) > 1 else [1] * len(batches)
    for batch, size in zip(batches, sizes, strict=True):
        measured, share = batch.measured, size / sum(sizes)
        measured.seconds += (perf_counter() - began + count.looked_up) * share
        measured.counted.passes += count.passes
        measured.counted.rows += round(count.rows * share)
        measured.counted.prompt_reads += round(count.prompt_reads * share)
