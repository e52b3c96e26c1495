"""The sampling loop: greedy decoding and sampling, with one choice for a main row and its branches.

Rows that have ended leave the batch with their branches, so that no pass computes them: each answer takes as many rows
as it has tokens. They stay where something needs every row in each step (`Op.whole`, logits processors that hold values
of rows), and where there is no token to pad them with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.generation import BaseStreamer

from mmhall.generation._branches import DecodeBatch
from mmhall.generation._candidates import TokenSampler, check_scores
from mmhall.generation._prepare import PreparedBatch

if TYPE_CHECKING:
    from mmhall.generation._job import StepScores


class Answers:
    """The answers to a batch of prompts, chosen token by token.

    `finish` decodes them alone. Where several batches are decoded together, `choose` chooses a token of each row, and
    the caller feeds it.

    Attributes:
        rows: Rows and branches of the batch, after their prompts.
        tokens: Latest token of each row, (rows,).
        left: Rows that go on after the latest step, 0-based, where others leave; None: all of them.
        over: Whether every answer has ended.
    """

    def __init__(
        self,
        prepared: PreparedBatch,
        rows: DecodeBatch,
        sampler: TokenSampler | None,
        sequences: int = 1,
        streamer: BaseStreamer | None = None,
        keep: StepScores | None = None,
        *,
        hand_over: Callable[[int, list[int]], None] | None = None,
        leave: bool = True,
    ) -> None:
        """Start with empty answers.

        Args:
            prepared: The main batch, P prompts.
            rows: Its rows and branches, after their prompts.
            sampler: Draws tokens; None: take the best.
            sequences: Number of answers to each prompt.
            streamer: Gets new tokens as they are chosen.
            keep: Gets the scores of each step.
            hand_over: Called with the number of an answer and its new tokens as soon as it has ended.
            leave: Whether rows that have ended may leave the batch.
        """
        ids = prepared.input_ids.repeat_interleave(sequences, dim=0)
        self._answers = torch.arange(len(ids), device=ids.device)  # the answer of each row that is decoded
        self._asked = self._answers // sequences  # their prompts
        if sequences > 1:
            rows.select(self._asked)
        self.rows, self._ids, self._length, self._prompts = rows, ids, ids.shape[1], len(prepared.input_ids)
        self._prepared, self._sampler, self._sequences = prepared, sampler, sequences
        self._streamer, self._keep, self._hand_over = streamer, keep, hand_over
        self._leave = leave and streamer is None and prepared.pad is not None and prepared.by_row and not rows.whole
        self._running = torch.ones_like(self._answers, dtype=torch.bool)
        self._ended = list[tuple[Tensor, Tensor]]()
        self.tokens, self.left, self.over = ids[:, -1], None, False  # type: Tensor, Tensor | None, bool

    def choose(self) -> None:
        """Choose the next token of each row, from the rows' scores.

        Raises:
            GenerationError: A row has no token to choose.
        """
        prepared, pad = self._prepared, self._prepared.pad
        scores = prepared.processed(self._ids, self.rows.scores(), self._asked if self._ended else None)
        check_scores(scores, self._ids.shape[1] - self._length, prompts=self._prompts, prompt=self._asked)
        if self._keep is not None:
            self._keep.add(scores, self.rows.logits[0], self._answers)
        sampler = self._sampler
        chosen = scores.argmax(dim=-1) if sampler is None else sampler(scores, self._answers, self._sequences)
        self.tokens = chosen if pad is None else torch.where(self._running, chosen, pad)
        self._ids = torch.cat([self._ids, self.tokens[:, None]], dim=1)
        if self._streamer is not None:
            self._streamer.put(self.tokens.cpu())
        self._end(self._running & prepared.criteria(self._ids, scores))

    def _end(self, ending: Tensor) -> None:
        """End some rows, (rows,) bool, and choose which are left."""
        self._running &= ~ending
        if self._hand_over is not None:
            with torch.inference_mode(False):
                for row in ending.nonzero()[:, 0].tolist():
                    self._hand_over(int(self._answers[row]), self._ids[row, self._length :].tolist())
        left = self._running.nonzero()[:, 0]
        self.over, self.left = not len(left), None
        if self.over and self._streamer is not None:
            self._streamer.end()
        if self._leave and 0 < len(left) < len(self._running):
            self._ended.append((self._answers[~self._running], self._ids[~self._running]))
            self._answers, self._asked, self._ids = self._answers[left], self._asked[left], self._ids[left]
            self.tokens, self._running, self.left = self.tokens[left], self._running[left], left

    def finish(self) -> Tensor:
        """Decode until every answer has ended; result as in `collect`."""
        while True:
            self.choose()
            if self.over:
                return self.collect()
            if self.left is not None:
                self.rows.select(self.left)
            self.rows.step(self.tokens)

    def collect(self) -> Tensor:
        """Return the new tokens of all answers, (prompts x sequences, length); rows that have ended are padded."""
        parts = [*self._ended, (self._answers, self._ids)]
        rows = self._ids.new_full((self._prompts * self._sequences, self._ids.shape[1]), self._prepared.pad or 0)
        for answers, ids in parts:
            rows[answers, : ids.shape[1]] = ids
        return rows[:, self._length :]
