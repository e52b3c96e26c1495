"""Choose one token after the other: greedy and sampling, one choice for a main row and all its branches."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.generation import BaseStreamer

from mmhall.generation.branches import Rows
from mmhall.generation.choose import Draws, choosable, combined
from mmhall.generation.prepare import Prepared
from mmhall.strategies import Session


def chain(
    prepared: Prepared,
    rows: Rows,
    session: Session,
    draws: Draws | None,
    sequences: int = 1,
    streamer: BaseStreamer | None = None,
) -> Tensor:
    """Decode until every row has ended.

    Args:
        prepared: The main batch, P prompts.
        rows: The same, read, with its branches.
        session: How the rows' scores combine.
        draws: None: take the best token.
        sequences: Drawn for each prompt.
        streamer: Gets new tokens as they are chosen.

    Returns:
        New tokens, (P x sequences, length); finished rows are padded.
    """
    ids = prepared.input_ids.repeat_interleave(sequences, dim=0)
    if sequences > 1:
        rows.select(torch.arange(len(prepared.input_ids), device=ids.device).repeat_interleave(sequences))
    length, pad = ids.shape[1], prepared.pad
    going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    while True:
        scores = choosable(prepared.processed(ids, combined(session, rows.logits)), ids.shape[1] - length)
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
