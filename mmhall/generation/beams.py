"""Beam search over main rows and their branches, equal to transformers' own where there are no branches.

A prompt is read once and its cache repeated for every beam, not read once a beam.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers import GenerationConfig

from mmhall.generation.branches import Rows
from mmhall.generation.choose import choosable, combined
from mmhall.generation.prepare import Prepared
from mmhall.strategies import Session

_DEAD = -1e9  # a finite floor: -inf would kill a hypothesis whose every continuation is out
_RULED_OUT = _DEAD / 2


class Beams:
    """The beams of some prompts and what they have finished; B beams a prompt.

    Attributes:
        said: Tokens of the running beams, (prompts, B, length), best first.
        scores: Their summed log-probabilities, (prompts, B).
    """

    def __init__(self, prepared: Prepared, asked: GenerationConfig, prompt: int | None = None) -> None:
        """Start with empty answers.

        Args:
            prepared: A batch of prompts.
            asked: num_beams, length_penalty and early_stopping, as transformers defines them.
            prompt: The only one to search for; None: all.
        """
        self._prepared, self._asked, self._prompt = prepared, asked, prompt
        self._ids = prepared.input_ids if prompt is None else prepared.input_ids[prompt : prompt + 1]
        prompts, beams, device = len(self._ids), asked.num_beams, self._ids.device
        self.said = self._ids.new_zeros(prompts, beams, 0)
        self.scores = torch.full((prompts, beams), _DEAD, device=device)
        self.scores[:, 0] = 0.0  # the beams of a prompt are still equal: only one may spawn candidates
        self._pools = [_Pool(beams) for _ in range(prompts)]

    def advance(self, logprobs: Tensor) -> Tensor | None:
        """Go one token further.

        Args:
            logprobs: Of the next token of every beam, (prompts x B, vocabulary).

        Returns:
            Which rows the beams now go on from, (prompts x B,); None: the search is over.
        """
        prompts, beams = self.scores.shape
        ranked = self._processed(logprobs.clamp_min(_DEAD))
        choosable(ranked.masked_fill(ranked <= _RULED_OUT, -torch.inf), self.said.shape[2])
        ranked = ranked.view(prompts, beams, -1)
        total = (ranked + self.scores[:, :, None]).flatten(1)
        candidates = max(2, 1 + len(self._prepared.ends)) * beams  # enough to go on with if the best ones end
        values, picked = total.topk(candidates)
        parents, tokens = picked // ranked.shape[-1], picked % ranked.shape[-1]
        grown = torch.cat([_of_each(self.said, parents), tokens[:, :, None]], dim=2)
        ended = self._prepared.criteria(self._read(grown), total).view(prompts, candidates)
        alive, order = torch.where(ended, values + _DEAD, values).topk(beams)
        self._collect(grown, values, ended, alive[:, 0])
        if ended.all() or not any(pool.open for pool in self._pools):
            return None
        self.scores, self.said = alive, _of_each(grown, order)
        return (parents.gather(1, order) + torch.arange(prompts, device=order.device)[:, None] * beams).flatten()

    def copy(self, *, pools: bool = True) -> Beams:
        """Return beams that go on by themselves; without `pools` both finish their answers into the same."""
        copied = copy.copy(self)
        if pools:
            copied._pools = [pool.copy() for pool in self._pools]
        return copied

    def best(self, count: int) -> list[Tensor]:
        """Return the best finished answers of each prompt, best first, (length,) each."""
        return [answer for pool in self._pools for answer in pool.best(count)]

    def finished(self, prompt: int = 0) -> list[tuple[float, list[int]]]:
        """Return the finished answers of a prompt with their scores, best first."""
        return [(score, answer.tolist()) for score, answer in self._pools[prompt].held()]

    def shared(self, prompt: int = 0) -> list[int]:
        """Return the tokens that every beam of a prompt, running or finished, begins with."""
        answers = [*self.said[prompt].tolist(), *(answer for _, answer in self.finished(prompt))]
        least, most = min(answers), max(answers)  # in the order of words: what these two share, all share
        return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False))]

    def _collect(self, grown: Tensor, values: Tensor, ended: Tensor, alive: Tensor) -> None:
        """Put what has ended into the pools, and close those that nothing alive can improve."""
        early, penalty = self._asked.early_stopping, self._asked.length_penalty
        penalty, written = 1.0 if penalty is None else penalty, grown.shape[2]
        room = self._prepared.config.max_length - self._ids.shape[1]
        longest = room if early == "never" and penalty > 0 else written
        hopes = (alive / longest**penalty).tolist()
        for index, pool in enumerate(self._pools):
            pool.add(grown[index], values[index], ended[index], written**penalty)
            pool.close_if_hopeless(hopes[index], early is True)

    def _processed(self, logprobs: Tensor) -> Tensor:
        ids = self._read(self.said)
        if self._prompt is None:
            return self._prepared.processed(ids, logprobs)
        return self._prepared.processed_alone(self._prompt, ids, logprobs)

    def _read(self, said: Tensor) -> Tensor:
        """Put the prompts before answers, (prompts, answers, length): (prompts x answers, prompt and length)."""
        return torch.cat([self._ids[:, None].expand(-1, said.shape[1], -1), said], dim=2).flatten(0, 1)


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
    prompts, device = len(prepared.input_ids), prepared.input_ids.device
    rows.select(torch.arange(prompts, device=device).repeat_interleave(asked.num_beams))
    beams = Beams(prepared, asked)
    while (parents := beams.advance(combined(session, rows.logits).log_softmax(dim=-1))) is not None:
        rows.select(parents)
        rows.step(beams.said[:, :, -1].flatten())
    return padded(beams.best(asked.num_return_sequences or 1), prepared)


def padded(answers: Sequence[Tensor], prepared: Prepared) -> Tensor:
    """Put answers, (length,) each, under each other, padded on the right."""
    return torch.nn.utils.rnn.pad_sequence(list(answers), batch_first=True, padding_value=prepared.pad or 0)


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

    def held(self) -> list[tuple[float, Tensor]]:
        return [(score, sequence) for _, score, sequence in self._held]

    def copy(self) -> _Pool:
        copied = copy.copy(self)
        copied._held = list(self._held)
        return copied


def _of_each(beams: Tensor, index: Tensor) -> Tensor:
    """Pick beams of each prompt: (prompts, beams, length) by (prompts, picked)."""
    return beams.gather(1, index[:, :, None].expand(-1, -1, beams.shape[2]))
