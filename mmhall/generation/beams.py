"""Beam search over main rows and their branches, equal to transformers' own where there are no branches.

A prompt is read once and its cache repeated for every beam, not read once a beam.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import GenerationConfig

from mmhall.generation.branches import Rows
from mmhall.generation.choose import choosable, combined
from mmhall.generation.prepare import Prepared
from mmhall.strategies import Session

_DEAD = -1e9  # a finite floor: -inf would kill a hypothesis whose every continuation is out
_RULED_OUT = _DEAD / 2


def search(prepared: Prepared, rows: Rows, session: Session, asked: GenerationConfig) -> Tensor:
    """Search for the most probable continuations.

    Args:
        prepared: The main batch, P prompts.
        rows: The same, read, with its branches.
        session: How the rows' scores combine.
        asked: num_beams, num_return_sequences, length_penalty and early_stopping, as transformers defines them.

    Returns:
        New tokens, (P x num_return_sequences, length), best first, padded on the right.
    """
    num_beams, early = asked.num_beams, asked.early_stopping
    penalty = 1.0 if asked.length_penalty is None else asked.length_penalty
    prompts, length = prepared.input_ids.shape
    device = prepared.input_ids.device
    candidates = max(2, 1 + len(prepared.ends)) * num_beams  # enough to go on with if the best ones end
    rows.select(torch.arange(prompts, device=device).repeat_interleave(num_beams))
    running = prepared.input_ids[:, None].expand(-1, num_beams, -1)
    scores = torch.full((prompts, num_beams), _DEAD, device=device)
    scores[:, 0] = 0.0  # the beams of a prompt are still equal: only one may spawn candidates
    pools = [_Pool(num_beams) for _ in range(prompts)]
    while True:
        logits = combined(session, rows.logits).log_softmax(dim=-1).clamp_min(_DEAD)
        ranked = prepared.processed(running.flatten(0, 1), logits)
        choosable(ranked.masked_fill(ranked <= _RULED_OUT, -torch.inf))
        ranked = ranked.view(prompts, num_beams, -1)
        total = (ranked + scores[:, :, None]).flatten(1)
        values, picked = total.topk(candidates)
        parents, tokens = picked // ranked.shape[-1], picked % ranked.shape[-1]
        grown = torch.cat([_of_each(running, parents), tokens[:, :, None]], dim=2)
        ended = prepared.criteria(grown.flatten(0, 1), total).view(prompts, candidates)

        written = grown.shape[2] - length
        alive, order = torch.where(ended, values + _DEAD, values).topk(num_beams)
        longest = prepared.config.max_length - length if early == "never" and penalty > 0 else written
        hopes = (alive[:, 0] / longest**penalty).tolist()
        for index, pool in enumerate(pools):
            pool.add(grown[index], values[index], ended[index], written**penalty)
            pool.close_if_hopeless(hopes[index], early is True)
        if ended.all() or not any(pool.open for pool in pools):
            break
        scores, running = alive, _of_each(grown, order)
        parents = parents.gather(1, order) + torch.arange(prompts, device=device)[:, None] * num_beams
        rows.select(parents.flatten())
        rows.step(running[:, :, -1].flatten())
    best = [row[length:] for pool in pools for row in pool.best(asked.num_return_sequences or 1)]
    return torch.nn.utils.rnn.pad_sequence(best, batch_first=True, padding_value=prepared.pad or 0)


class _Pool:
    """The finished hypotheses of one prompt, best first; closed once nothing running can improve on them."""

    def __init__(self, size: int) -> None:
        self._size, self._held, self.open = size, list[tuple[bool, float, Tensor]](), True

    def add(self, sequences: Tensor, values: Tensor, ended: Tensor, length: float) -> None:
        """Take in what has ended among the first candidates; later ones are there only to go on with.

        What a strategy rules out stands behind all else: it fills up what is asked for where nothing better is left.
        """
        if not self.open:
            return
        for index in ended[: self._size].nonzero()[:, 0].tolist():
            possible = bool(values[index] > _RULED_OUT)
            self._held.append((possible, float(values[index] / length), sequences[index]))
        self._held = sorted(self._held, key=lambda held: (-held[0], -held[1]))[: self._size]

    def close_if_hopeless(self, hope: float, early: bool) -> None:
        """Close when full, and stopping early or no better score can be hoped for."""
        if len(self._held) == self._size and self._held[-1][0] and (early or hope <= self._held[-1][1]):
            self.open = False

    def best(self, count: int) -> list[Tensor]:
        return [sequence for _, _, sequence in self._held[:count]]


def _of_each(beams: Tensor, index: Tensor) -> Tensor:
    """Pick beams of each prompt: (prompts, beams, length) by (prompts, picked)."""
    return beams.gather(1, index[:, :, None].expand(-1, -1, beams.shape[2]))
