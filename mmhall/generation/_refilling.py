"""Answer any number of prompts with a bounded number of rows: waiting prompts join as others end.

Rows that have ended leave (`Answers`), and as soon as a quarter of the rows is free, the next prompts are read as a
batch of their own. Its cache is joined with those of the batches that are being decoded, and all step together
(`_together`). Each batch keeps its session, with ops, branches, memory and draws, so that an answer does not depend on
which others are decoded beside it, except for rounding.

A search and beams take one batch after the other, and so do prompts whose caches cannot be joined: those of some models
and, of a model with cross-attention, with different numbers of pictures. What was found not to join is not tried again.

A prompt that cannot be read or answered fails alone: the prompts of its batch are asked again one by one. Where memory
is exhausted, fewer rows are decoded from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.answers import Answer
from mmhall.attention import PassCount, count_passes
from mmhall.errors import GenerationError, ImageError, MmhallError, PromptError, is_out_of_memory
from mmhall.generation._answering import Measurement, build_answers
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._candidates import name_in_errors
from mmhall.generation._job import Recipe, StepScores
from mmhall.generation._requests import make_requests
from mmhall.generation._run import begin, run
from mmhall.generation._sampling import Answers
from mmhall.generation._together import join_batches, select_together, step_together
from mmhall.generation._waiting import Asked, Waiting

ITEM_ERRORS = ImageError, PromptError, GenerationError
"""Errors caused by one prompt; any other error ends the whole call."""

_SHARE = 4  # waiting prompts are read when this part of the rows is free: alone, each would take a pass of its own


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
class _Batch:
    """Prompts that were read together, while they are answered."""

    asked: list[Asked]
    measured: Measurement = field(default_factory=Measurement)
    inputs: Inputs = field(default_factory=dict)
    answers: Answers = field(init=False)
    keep: StepScores | None = None

    @property
    def rows(self) -> DecodeBatch:
        """Its rows that are being decoded."""
        return self.answers.rows


def refill(
    adapter: Adapter, recipe: Recipe, waiting: Waiting, rows: int, *, scores: int | bool = False, share: bool = True
) -> Iterator[Answered]:
    """Answer waiting prompts; yields answers as soon as those of all prompts that were read together are complete.

    Args:
        adapter: The model.
        recipe: Strategy and settings, fitted to it.
        waiting: The prompts.
        rows: Most answers that are decoded at a time, >= 1.
        scores: Keep the scores of so many first tokens of each answer; True: of all.
        share: Whether the shared prefix of prompts about one picture is read once.

    Raises:
        MmhallError: The strategy does not work with the model.
    """
    return _Refilling(adapter, recipe, waiting, rows, scores, share).run()


class _Refilling:
    """The answering of waiting prompts; arguments as in `refill`."""

    def __init__(
        self, adapter: Adapter, recipe: Recipe, waiting: Waiting, rows: int, scores: int | bool, share: bool
    ) -> None:
        self._adapter, self._recipe, self._waiting, self._rows = adapter, recipe, waiting, rows
        self._scores, self._share = scores, share
        self._running: list[_Batch] = []
        self._each = recipe.config.num_return_sequences or 1
        self._searches = recipe.strategy.searches or recipe.config.num_beams > 1
        self._apart = set[frozenset[int]]()  # numbers of pictures of prompts that were found not to join

    def run(self) -> Iterator[Answered]:
        """Read and decode until no prompt waits and no answer is open."""
        if self._adapter.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._adapter.device)
        while True:
            room = self._room()
            if room and (asked := self._waiting.take(room, alone=not self._running)):
                yield from self._read(asked)
            elif self._running:
                yield from self._step()
            else:
                return

    def _room(self) -> int:
        """Return how many prompts can be read now."""
        if not self._running:
            return max(1, self._rows // self._each)
        free = self._rows - sum(batch.rows.size for batch in self._running)
        return free // self._each if free >= max(1, self._rows // _SHARE) and self._may_join() else 0

    def _may_join(self) -> bool:
        """Whether the next prompts are not of a kind that was found not to join those that are answered."""
        return not self._apart or self._kinds(self._waiting.pictures) not in self._apart

    def _kinds(self, pictures: int) -> frozenset[int]:
        """Return the numbers of pictures of the prompts that are answered, and of others."""
        return frozenset({pictures, *(each.pictures for batch in self._running for each in batch.asked)})

    def _read(self, asked: list[Asked]) -> Iterator[Answered]:
        """Read prompts, and let them join; those of a search are answered at once."""
        batch, adapter = _Batch(asked), self._adapter
        if asked[0].error is not None:
            yield Answered(asked, error=asked[0].error)
            return
        try:
            with _charged([batch], adapter.device):
                batch.inputs = adapter.inputs(make_requests([each.pair for each in asked]))
                batch.keep = StepScores("scores", [], steps=None if self._scores is True else self._scores)
                keep = batch.keep if self._scores else None
                seeds = [self._recipe.settings.seed if each.seed is None else each.seed for each in asked]
                job = self._recipe.job(adapter, batch.inputs, seeds, keep=keep, share=self._share)
                batch.inputs = job.inputs
                tokens = run(job) if self._searches else None
                if tokens is None:
                    batch.answers = begin(job)
        except ITEM_ERRORS as error:
            yield from self._fail(batch, error)
        except (MemoryError, RuntimeError) as error:
            yield from self._exhaust([batch], error)
        else:
            if tokens is not None:
                yield self._complete(batch, tokens)
            else:
                yield from self._join(batch)

    def _join(self, batch: _Batch) -> Iterator[Answered]:
        """Let prompts that were read join those that are answered; where that is impossible, they wait again."""
        batches = [*self._running, batch]
        try:
            with torch.inference_mode():
                joined = len(batches) == 1 or join_batches([each.rows for each in batches])
        except (MemoryError, RuntimeError) as error:  # half joined, so that no row can be decoded on
            self._running = []
            yield from self._exhaust(batches, error)
            return
        if joined:
            self._running = batches
        else:
            self._apart.add(self._kinds(batch.asked[0].pictures))
            self._waiting.put_back(batch.asked)

    def _step(self) -> Iterator[Answered]:
        """Choose the next token of each answer, and feed those that have not ended."""
        batches, failed = self._running, list[tuple[_Batch, GenerationError]]()
        try:
            with torch.inference_mode():
                for batch in batches:
                    try:
                        with _charged([batch], self._adapter.device), name_in_errors(self._recipe.strategy.name):
                            batch.answers.choose()
                    except GenerationError as error:
                        failed.append((batch, error))
                out = [batch for batch, _ in failed]
                self._running = [batch for batch in batches if batch not in out and not batch.answers.over]
                with _charged(self._running, self._adapter.device):
                    self._feed(batches)
        except (MemoryError, RuntimeError) as error:
            self._running = []
            yield from self._exhaust(batches, error)
            return
        for batch, reason in failed:
            yield from self._fail(batch, reason)
        for batch in batches:
            if batch not in out and batch.answers.over:
                yield self._complete(batch, batch.answers.collect())

    def _feed(self, batches: Sequence[_Batch]) -> None:
        """Let rows leave, and feed the others their tokens."""
        if not self._running:
            return
        none = torch.empty(0, dtype=torch.long, device=batches[0].answers.tokens.device)
        left = [batch.answers.left if batch in self._running else none for batch in batches]
        if any(rows is not None for rows in left):
            select_together([batch.rows for batch in batches], left)
        step_together([batch.rows for batch in self._running], [batch.answers.tokens for batch in self._running])

    def _complete(self, batch: _Batch, tokens: Tensor) -> Answered:
        """Return the answers of a batch."""
        device, keep = self._adapter.device, batch.keep
        if device.type == "cuda":
            batch.measured.peak_bytes = torch.cuda.max_memory_allocated(device)
        answers = build_answers(self._adapter, batch.inputs, tokens, self._recipe, batch.measured)
        if self._scores and keep is not None:
            answers = [replace(one, scores=keep.scores_of(i, len(one.token_ids))) for i, one in enumerate(answers)]
        return Answered(batch.asked, answers)

    def _fail(self, batch: _Batch, error: MmhallError) -> Iterator[Answered]:
        """Give up the only prompt of a batch, or let each be asked alone."""
        if len(batch.asked) == 1:
            yield Answered(batch.asked, error=error)
        else:
            self._waiting.put_back(batch.asked, sole=True)

    def _exhaust(self, batches: Sequence[_Batch], error: Exception) -> Iterator[Answered]:
        """Ask prompts again, with fewer rows from now on, where memory is exhausted.

        Raises:
            Exception: It is another error.
        """
        if not is_out_of_memory(error):
            raise error
        asked = [each for batch in batches for each in batch.asked]
        beside = sum(batch.rows.size for batch in self._running)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(asked) == 1 and not beside:
            reason = str(error).partition("\n")[0] or type(error).__name__
            yield Answered(asked, error=GenerationError(f"out of memory: {reason}"))
            return
        self._rows = beside or max(1, len(asked) * self._each // 2)
        self._waiting.put_back(asked)


@contextmanager
def _charged(batches: Sequence[_Batch], device: torch.device) -> Iterator[None]:
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
