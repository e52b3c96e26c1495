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


def run_sampling_loop(
    prepared: PreparedBatch,
    rows: DecodeBatch,
    sampler: TokenSampler | None,
    sequences: int = 1,
    streamer: BaseStreamer | None = None,
    keep: StepScores | None = None,
    *,
    hand_over: Callable[[int, list[int]], None] | None = None,
    leave: bool = True,
) -> Tensor:
    """Decode until every row has ended.

    Args:
        prepared: The main batch, P prompts.
        rows: Its rows and branches, after their prompts.
        sampler: Draws tokens; None: take the best.
        sequences: Number of answers to each prompt.
        streamer: Gets new tokens as they are chosen.
        keep: Gets the scores of each step.
        hand_over: Called with the number of an answer and its new tokens as soon as it has ended.
        leave: Whether rows that have ended may leave the batch.

    Returns:
        New tokens, (P x sequences, length); rows that have ended are padded.
    """
    ids = prepared.input_ids.repeat_interleave(sequences, dim=0)
    answers = torch.arange(len(ids), device=ids.device)  # the answer of each row that is decoded
    asked = answers // sequences  # their prompts
    if sequences > 1:
        rows.select(asked)
    prompts, length, pad = len(prepared.input_ids), ids.shape[1], prepared.pad
    leave = leave and streamer is None and pad is not None and prepared.by_row and not rows.whole
    running, ended = torch.ones_like(answers, dtype=torch.bool), list[tuple[Tensor, Tensor]]()
    while True:
        scores = prepared.processed(ids, rows.scores(), asked if ended else None)
        check_scores(scores, ids.shape[1] - length, prompts=prompts, prompt=asked)
        if keep is not None:
            keep.add(scores, rows.logits[0], answers)
        chosen = scores.argmax(dim=-1) if sampler is None else sampler(scores, answers, sequences)
        if pad is not None:
            chosen = torch.where(running, chosen, pad)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        if streamer is not None:
            streamer.put(chosen.cpu())
        ending = running & prepared.criteria(ids, scores)
        running &= ~ending
        if hand_over is not None:
            with torch.inference_mode(False):
                for row in ending.nonzero()[:, 0].tolist():
                    hand_over(int(answers[row]), ids[row, length:].tolist())
        left = running.nonzero()[:, 0]
        if not len(left):
            break
        if leave and len(left) < len(running):
            ended.append((answers[~running], ids[~running]))
            rows.select(left)
            answers, asked, ids = answers[left], asked[left], ids[left]
            chosen, running = chosen[left], running[left]
        rows.step(chosen)
    if streamer is not None:
        streamer.end()
    return _collect([*ended, (answers, ids)], pad)[:, length:]


def _collect(parts: list[tuple[Tensor, Tensor]], pad: int | None) -> Tensor:
    """Return the rows of all answers in order, (answers, positions), from those that ended together, padded."""
    count, (_, last) = sum(len(answers) for answers, _ in parts), parts[-1]
    rows = last.new_full((count, last.shape[1]), pad or 0)
    for answers, ids in parts:
        rows[answers, : ids.shape[1]] = ids
    return rows
