"""Answer any number of prompts with a bounded number of rows: waiting prompts join as others end.

Rows that have ended leave (`Answers`), and as soon as a quarter of the rows is free, the next prompts are read as a
batch of their own. Its cache is joined with those of the batches that are being decoded, and all step together
(`_together`). Each batch keeps its session, with ops, branches, memory and draws, so that an answer does not depend on
which others are decoded beside it, except for rounding.

A search and beams take one batch after the other, and so do prompts whose caches cannot be joined: those of some models
and, of a model with cross-attention, with different numbers of pictures. What was found not to join is not tried again.

With a budget of positions or memory, prompts are read as far as they fit beside what is decoded until all of it has
ended. The first prompt of each kind is read and decoded for a step alone, to know what others will take (`_forecast`).

A prompt that cannot be read or answered fails alone: the prompts of its batch are asked again one by one. Where memory
is exhausted, fewer rows are decoded from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmhall._transformers.cache_sizes import LayerSize
from mmhall.adapters import Adapter, Batch
from mmhall.attention import forget_features, reuse_features
from mmhall.errors import GenerationError, ImageError, MmhallError, PromptError, is_out_of_memory
from mmhall.generation._answering import build_answers
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._budget import Budget, Load
from mmhall.generation._candidates import name_in_errors
from mmhall.generation._forecast import Forecast, Sample, Samples
from mmhall.generation._job import Recipe, StepScores
from mmhall.generation._open_batch import Answered, OpenBatch, charged
from mmhall.generation._requests import make_requests
from mmhall.generation._run import begin, run
from mmhall.generation._tensor_memory import TensorMemory
from mmhall.generation._together import join_batches, select_together, step_together
from mmhall.generation._waiting import Asked, Waiting

ITEM_ERRORS = ImageError, PromptError, GenerationError
"""Errors caused by one prompt; any other error ends the whole call."""

_SHARE = 4  # waiting prompts are read when this part of the rows is free: alone, each would take a pass of its own


def refill(
    adapter: Adapter,
    recipe: Recipe,
    waiting: Waiting,
    budget: Budget,
    *,
    samples: Samples | None = None,
    scores: int | bool = False,
    share: bool = True,
) -> Iterator[Answered]:
    """Answer waiting prompts; yields answers as soon as those of all prompts that were read together are complete.

    Args:
        adapter: The model.
        recipe: Strategy and settings, fitted to it.
        waiting: The prompts.
        budget: What may be decoded at a time.
        samples: What prompts have taken before, with this model and recipe; further ones are added.
        scores: Keep the scores of so many first tokens of each answer; True: of all.
        share: Whether the shared prefix of prompts about one picture is read once.

    Raises:
        MmhallError: The strategy does not work with the model.
    """
    forecast = Forecast(budget, {} if samples is None else samples, recipe.config.max_new_tokens)
    return _Refilling(adapter, recipe, waiting, forecast, scores, share).run()


class _Refilling:
    """The answering of waiting prompts; arguments as in `refill`."""

    def __init__(
        self, adapter: Adapter, recipe: Recipe, waiting: Waiting, forecast: Forecast, scores: int | bool, share: bool
    ) -> None:
        self._adapter, self._recipe, self._waiting, self._forecast = adapter, recipe, waiting, forecast
        self._scores, self._share, self._rows = scores, share, forecast.budget.answers
        self._running: list[OpenBatch] = []
        self._each = recipe.config.num_return_sequences or 1
        self._searches = recipe.strategy.searches or recipe.config.num_beams > 1
        self._apart = set[frozenset[int]]()  # numbers of pictures of prompts that were found not to join
        self._full, self._again = False, set[int]()  # prompts asked again alone, once others' features were freed

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
        room = not self._full and free >= max(1, self._rows // _SHARE) and self._may_join()
        return free // self._each if room else 0

    def _may_join(self) -> bool:
        """Whether the next prompts are not of a kind that was found not to join those that are answered."""
        return not self._apart or self._kinds(self._waiting.pictures) not in self._apart

    def _kinds(self, pictures: int) -> frozenset[int]:
        """Return the numbers of pictures of the prompts that are answered, and of others."""
        return frozenset({pictures, *(each.pictures for batch in self._running for each in batch.asked)})

    def _read(self, asked: list[Asked]) -> Iterator[Answered]:
        """Read prompts, as many as fit, and let them join; those of a search are answered at once."""
        batch = OpenBatch(asked)
        if asked[0].error is not None:
            yield Answered(asked, error=asked[0].error)
            return
        try:
            with charged([batch], self._adapter.device):
                batch.asked = self._with_inputs(asked)
                if self._forecast.budget.limits_prompts:
                    self._admit(batch)
        except ITEM_ERRORS as error:
            yield from self._fail(batch, error)
        except (MemoryError, RuntimeError) as error:
            yield from self._exhaust([batch], error)
        else:
            if batch.asked:
                limited = self._forecast.budget.limits_prompts
                unknown = limited and self._forecast.sample(max(batch.lengths), picture=batch.picture) is None
                yield from self._measure(batch) if unknown else self._begin(batch)

    def _with_inputs(self, asked: list[Asked]) -> list[Asked]:
        """Return prompts with their inputs."""
        new = [each for each in asked if each.read is None]
        if not new:
            return asked
        made = self._adapter.inputs(make_requests([each.pair for each in new]))
        read = zip(made.requests, made.singles, strict=True)
        return [replace(each, read=next(read)) if each.read is None else each for each in asked]

    def _admit(self, batch: OpenBatch) -> None:
        """Leave to a batch the first of its prompts that fit; the others wait, or all of them for a step.

        Raises:
            GenerationError: The first one takes more memory than the budget has.
        """
        asked, lengths, forecast, picture = batch.asked, batch.lengths, self._forecast, batch.picture
        running = [self._load(one) for one in self._running]
        count = forecast.count_fitting(lengths, running, picture=picture)
        if self._running:
            free, taken = count * self._each, sum(one.rows.size for one in self._running)
            if count < len(asked) and free * _SHARE < free + taken:
                count = 0
            self._full = not count
        else:
            count = max(1, count)
        self._waiting.give_back(asked[count:])
        batch.asked = asked[:count]
        if count:
            forecast.check(lengths[:count], running, picture=picture)

    def _load(self, batch: OpenBatch) -> Load:
        """Return what a batch holds that is being decoded, and may still take."""
        rows, longest, said = batch.rows, max(batch.lengths), batch.rows.said.shape[1]
        sample = self._forecast.sample(longest, picture=batch.picture)
        assert sample is not None
        load = sample.load(rows.size / self._each, longest, self._recipe.config.max_new_tokens - said)
        return replace(load, rows=rows.rows, columns=rows.columns)

    def _measure(self, batch: OpenBatch) -> Iterator[Answered]:
        """Read a prompt alone, and decode it for a step, to know what others of its kind take."""
        (length,), picture, layers, held = batch.lengths, batch.picture, tuple[LayerSize, ...](), 0
        with TensorMemory(self._adapter.device) as memory, reuse_features({}):
            done, read = list(self._begin(batch)), memory.peak
            memory.restart()
            if self._running:
                layers, cached = batch.rows.cache_sizes()
                held = memory.now - cached + self._each * self._score_bytes(batch.rows)
                done += self._step()
        measured = self._searches or not done or self._recipe.config.max_new_tokens == 1  # else it ended before a pass
        if measured and not any(one.error for one in done):
            job, step = batch.job, memory.peak - memory.now
            if self._searches:  # it was measured to its end; others may go on to the longest answer
                new = self._recipe.config.max_new_tokens
                read = read * (length + new) // (length + done[0].answers[0].usage.longest)
            self._forecast.add(Sample(length, job.length, job.rows_a_prompt, read, held, step, layers), picture=picture)
            try:
                self._forecast.check([length], picture=picture)
            except GenerationError as error:
                self._running, done = [], [Answered(batch.asked, error=error)]
        yield from done

    def _score_bytes(self, rows: DecodeBatch) -> int:
        """Return the bytes of the scores that are kept of an answer."""
        steps = self._recipe.config.max_new_tokens if self._scores is True else self._scores
        return steps * rows.logits[0][0].nbytes

    def _begin(self, batch: OpenBatch) -> Iterator[Answered]:
        """Read the prompts of a batch, and let them join; those of a search are answered at once."""
        adapter, asked = self._adapter, batch.asked
        try:
            with charged([batch], adapter.device):
                requests, singles = zip(*(each.read for each in asked if each.read is not None), strict=True)
                inputs = Batch(adapter.stack(singles), singles, requests, adapter.title)
                batch.keep = StepScores("scores", [], steps=None if self._scores is True else self._scores)
                keep = batch.keep if self._scores else None
                seeds = [self._recipe.settings.seed if each.seed is None else each.seed for each in asked]
                batch.job = job = self._recipe.job(adapter, inputs, seeds, keep=keep, share=self._share)
                self._forecast.note_length(max(batch.lengths), job.length, picture=batch.picture)
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

    def _join(self, batch: OpenBatch) -> Iterator[Answered]:
        """Let prompts that were read join those that are answered; where that is impossible, they wait again."""
        batches = [*self._running, batch]
        try:
            with torch.inference_mode(), charged(batches, self._adapter.device):
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
        self._full, batches, failed = False, self._running, list[tuple[OpenBatch, GenerationError]]()
        try:
            with torch.inference_mode():
                for batch in batches:
                    try:
                        with charged([batch], self._adapter.device), name_in_errors(self._recipe.strategy.name):
                            batch.answers.choose()
                    except GenerationError as error:
                        failed.append((batch, error))
                out = [batch for batch, _ in failed]
                self._running = [batch for batch in batches if batch not in out and not batch.answers.over]
                with charged(self._running, self._adapter.device):
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

    def _feed(self, batches: Sequence[OpenBatch]) -> None:
        """Let rows leave, and feed the others their tokens."""
        if not self._running:
            return
        none = torch.empty(0, dtype=torch.long, device=batches[0].answers.tokens.device)
        left = [batch.answers.left if batch in self._running else none for batch in batches]
        if any(rows is not None for rows in left):
            select_together([batch.rows for batch in batches], left)
        step_together([batch.rows for batch in self._running], [batch.answers.tokens for batch in self._running])

    def _complete(self, batch: OpenBatch, tokens: Tensor) -> Answered:
        """Return the answers of a batch."""
        device, keep = self._adapter.device, batch.keep
        if device.type == "cuda":
            batch.measured.peak_bytes = torch.cuda.max_memory_allocated(device)
        answers = build_answers(self._adapter, batch.job.inputs, tokens, self._recipe, batch.measured)
        if self._scores and keep is not None:
            answers = [replace(one, scores=keep.scores_of(i, len(one.token_ids))) for i, one in enumerate(answers)]
        return Answered(batch.asked, answers)

    def _fail(self, batch: OpenBatch, error: MmhallError) -> Iterator[Answered]:
        """Give up the only prompt of a batch, or let each be asked alone."""
        if len(batch.asked) == 1:
            yield Answered(batch.asked, error=error)
        else:
            self._waiting.put_back(batch.asked, sole=True)

    def _exhaust(self, batches: Sequence[OpenBatch], error: Exception) -> Iterator[Answered]:
        """Ask prompts again, with fewer rows from now on, where memory is exhausted.

        Raises:
            Exception: It is another error.
        """
        if not is_out_of_memory(error):
            raise error
        freed = forget_features()
        asked = [each for batch in batches for each in batch.asked]
        beside = sum(batch.rows.size for batch in self._running)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        alone = len(asked) == 1 and not beside
        if alone and (not freed or asked[0].number in self._again):
            reason = str(error).partition("\n")[0] or type(error).__name__
            yield Answered(asked, error=GenerationError(f"out of memory: {reason}"))
            return
        self._again |= {each.number for each in asked if alone}
        self._rows = beside or max(1, len(asked) * self._each // 2)
        for batch in reversed(batches):  # apart, as some may have pictures and some not
            self._waiting.put_back(batch.asked)
