"""Choose one token after the other: greedy and sampling, one choice for a main row and all its branches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation import BaseStreamer

from mmhall.generation.branches import Rows
from mmhall.generation.choose import Draws, choosable, combined
from mmhall.generation.prepare import Prepared
from mmhall.strategies import Session


@dataclass(slots=True)
class Kept:
    """What the steps of a chain chose from, (rows, vocabulary) float32 each, kept for who asks.

    Attributes:
        option: The option that asks for it, for a refusal.
        scores: The scores that each token was chosen from: combined, and edited by the processors; None: not asked for.
        logits: The main rows' logits; None: not asked for.
    """

    option: str
    scores: list[Tensor] | None = None
    logits: list[Tensor] | None = None

    def add(self, scores: Tensor, logits: Tensor) -> None:
        """Keep those of one step."""
        if self.scores is not None:
            self.scores.append(scores)
        if self.logits is not None:
            self.logits.append(logits.clone())

    def scores_of(self, row: int, length: int) -> Tensor:
        """Return the scores of a row's first `length` tokens, (length, vocabulary) on the CPU."""
        assert self.scores is not None
        return torch.stack([step[row] for step in self.scores])[:length].cpu()


def chain(
    prepared: Prepared,
    rows: Rows,
    session: Session,
    draws: Draws | None,
    sequences: int = 1,
    streamer: BaseStreamer | None = None,
    keep: Kept | None = None,
) -> Tensor:
    """Decode until every row has ended.

    Args:
        prepared: The main batch, P prompts.
        rows: The same, read, with its branches.
        session: How the rows' scores combine.
        draws: None: take the best token.
        sequences: Drawn for each prompt.
        streamer: Gets new tokens as they are chosen.
        keep: Gets what they are chosen from.

    Returns:
        New tokens, (P x sequences, length); finished rows are padded.
    """
    ids = prepared.input_ids.repeat_interleave(sequences, dim=0)
    if sequences > 1:
        rows.select(torch.arange(len(prepared.input_ids), device=ids.device).repeat_interleave(sequences))
    length, pad = ids.shape[1], prepared.pad
    going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    while True:
        logits = rows.logits
        scores = prepared.processed(ids, combined(session, logits))
        choosable(scores, ids.shape[1] - length, prompts=len(prepared.input_ids))
        if keep is not None:
            keep.add(scores, logits[0])
        chosen = scores.argmax(dim=-1) if draws is None else draws(scores)
        if pad is not None:
            chosen = torch.where(going, chosen, pad)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        if streamer is not None:
            streamer.put(chosen.cpu())
        going &= ~prepared.criteria(ids, scores)
        if not going.any():
            break
        rows.step(chosen)
    if streamer is not None:
        streamer.end()
    return ids[:, length:]
