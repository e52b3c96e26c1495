"""The sampling loop: greedy decoding and sampling, with one choice for a main row and its branches."""

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
    ended: Callable[[int, list[int]], None] | None = None,
) -> Tensor:
    """Decode until every row has ended.

    Args:
        prepared: The main batch, P prompts.
        rows: Its rows and branches, after their prompts.
        sampler: Draws tokens; None: take the best.
        sequences: Number of answers to each prompt.
        streamer: Gets new tokens as they are chosen.
        keep: Gets the scores of each step.
        ended: Called with a row and its new tokens as soon as it has ended.

    Returns:
        New tokens, (P x sequences, length); rows that have ended are padded.
    """
    ids = prepared.input_ids.repeat_interleave(sequences, dim=0)
    if sequences > 1:
        rows.select(torch.arange(len(prepared.input_ids), device=ids.device).repeat_interleave(sequences))
    length, pad = ids.shape[1], prepared.pad
    running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    while True:
        scores = prepared.processed(ids, rows.scores())
        check_scores(scores, ids.shape[1] - length, prompts=len(prepared.input_ids))
        if keep is not None:
            keep.add(scores, rows.logits[0])
        chosen = scores.argmax(dim=-1) if sampler is None else sampler(scores)
        if pad is not None:
            chosen = torch.where(running, chosen, pad)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        if streamer is not None:
            streamer.put(chosen.cpu())
        ending = running & prepared.criteria(ids, scores)
        running &= ~ending
        if ended is not None:
            with torch.inference_mode(False):
                for row in ending.nonzero()[:, 0].tolist():
                    ended(row, ids[row, length:].tolist())
        if not running.any():
            break
        rows.step(chosen)
    if streamer is not None:
        streamer.end()
    return ids[:, length:]
