"""Beam search over main rows and their branches; without branches equal to transformers' own.

A prompt is read once and its cache repeated for every beam.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers import GenerationConfig

from mmhall.generation._branches import DecodeBatch
from mmhall.generation._candidates import check_scores
from mmhall.generation._hypotheses import RULED_OUT, Pool, Stopping, WholePool
from mmhall.generation._prepare import PreparedBatch

_DEAD = -1e9  # a finite floor: -inf would remove a beam whose next tokens are all ruled out


class Beams:
    """The running and finished beams of some prompts; B beams a prompt.

    Attributes:
        said: Tokens of the running beams, (prompts, B, length), best first.
        scores: Their summed log-probabilities, (prompts, B).
    """

    def __init__(
        self,
        prepared: PreparedBatch,
        config: GenerationConfig,
        lengths: Tensor | None = None,
        prompt: int | None = None,
    ) -> None:
        """Start with empty answers.

        Args:
            prepared: A batch of prompts.
            config: num_beams, length_penalty and early_stopping, as transformers defines them.
            lengths: Prompt lengths, (prompts,), added to the length of an answer; None: nothing is added.
            prompt: The only prompt to search for; None: all.
        """
        self._prepared, self._config, self._prompt = prepared, config, prompt
        self._ids = prepared.input_ids if prompt is None else prepared.input_ids[prompt : prompt + 1]
        prompts, beams, device = len(self._ids), config.num_beams, self._ids.device
        self.said = self._ids.new_zeros(prompts, beams, 0)
        self.scores = torch.full((prompts, beams), _DEAD, device=device)
        self.scores[:, 0] = 0.0  # all beams are equal at first: only one may have candidates
        room, penalty = prepared.config.max_length - self._ids.shape[1], config.length_penalty
        stopping = Stopping(config.early_stopping or False, 1.0 if penalty is None else penalty, room)
        if lengths is None:
            self._pools = [Pool(beams, stopping) for _ in range(prompts)]
        else:
            prompt_lengths = lengths.tolist() if prompt is None else lengths[prompt : prompt + 1].tolist()
            self._pools = [WholePool(beams, stopping, length) for length in prompt_lengths]

    def advance(self, logprobs: Tensor) -> Tensor | None:
        """Extend each beam by one token.

        Args:
            logprobs: Log-probabilities of the next token of every beam, (prompts x B, vocabulary).

        Returns:
            The row that each beam continues, (prompts x B,); None: the search is over.
        """
        prompts, beams = self.scores.shape
        ranked = self._processed(logprobs.clamp_min(_DEAD))
        possible = ranked.masked_fill(ranked <= RULED_OUT, -torch.inf)
        check_scores(possible, self.said.shape[2], prompts=len(self._prepared.input_ids), prompt=self._prompt)
        ranked = ranked.view(prompts, beams, -1)
        total = (ranked + self.scores[:, :, None]).flatten(1)
        candidates = max(2, 1 + len(self._prepared.ends)) * beams  # enough beams remain if the best ones end
        values, picked = total.topk(candidates)
        parents, tokens = picked // ranked.shape[-1], picked % ranked.shape[-1]
        extended = torch.cat([_select_beams(self.said, parents), tokens[:, :, None]], dim=2)
        ended = self._prepared.criteria(self._read(extended), total).view(prompts, candidates)
        alive, order = torch.where(ended, values + _DEAD, values).topk(beams)
        has_end_mark = torch.isin(tokens, torch.tensor(self._prepared.ends, device=tokens.device, dtype=tokens.dtype))
        on_cpu = values.cpu(), ended.cpu(), has_end_mark.cpu(), alive[:, 0].cpu()
        for index, pool in enumerate(self._pools):
            pool.take(extended[index], *(part[index] for part in on_cpu))
        if ended.all() or not any(pool.open for pool in self._pools):
            return None
        self.scores, self.said = alive, _select_beams(extended, order)
        return (parents.gather(1, order) + torch.arange(prompts, device=order.device)[:, None] * beams).flatten()

    def copy(self, *, pools: bool = True) -> Beams:
        """Return an independent copy; without `pools` both put finished answers into the same pools."""
        copied = copy.copy(self)
        if pools:
            copied._pools = [pool.copy() for pool in self._pools]
        return copied

    def best(self, count: int) -> list[Tensor]:
        """Return the best finished answers of each prompt, best first, (length,) each."""
        return [answer for pool in self._pools for answer in pool.best(count)]

    def finished(self, prompt: int = 0) -> list[tuple[float, list[int]]]:
        """Return the finished answers of a prompt with their scores, best first."""
        return [(score, answer.tolist()) for score, answer in self._pools[prompt].scored()]

    def shared(self, prompt: int = 0) -> list[int]:
        """Return the common prefix of all beams of a prompt, running and finished."""
        return common_prefix([*self.said[prompt].tolist(), *(answer for _, answer in self.finished(prompt))])

    def _processed(self, logprobs: Tensor) -> Tensor:
        ids = self._read(self.said)
        if self._prompt is None:
            return self._prepared.processed(ids, logprobs)
        return self._prepared.processed_alone(self._prompt, ids, logprobs)

    def _read(self, said: Tensor) -> Tensor:
        """Concatenate prompts and answers, (prompts, answers, length), to (prompts x answers, prompt and length)."""
        return torch.cat([self._ids[:, None].expand(-1, said.shape[1], -1), said], dim=2).flatten(0, 1)


def search(prepared: PreparedBatch, rows: DecodeBatch, lengths: Tensor | None, config: GenerationConfig) -> Tensor:
    """Search for the most probable continuations.

    Args:
        prepared: The main batch, P prompts.
        rows: Its rows and branches, after their prompts.
        lengths: As in `Beams`.
        config: num_beams, num_return_sequences, length_penalty and early_stopping, as transformers defines them.

    Returns:
        New tokens, (P x num_return_sequences, length), best first, padded on the right.
    """
    prompts, device = len(prepared.input_ids), prepared.input_ids.device
    rows.select(torch.arange(prompts, device=device).repeat_interleave(config.num_beams))
    beams = Beams(prepared, config, lengths)
    while (parents := beams.advance(rows.scores().log_softmax(dim=-1))) is not None:
        rows.select(parents)
        rows.step(beams.said[:, :, -1].flatten())
    return pad_answers(beams.best(config.num_return_sequences or 1), prepared)


def common_prefix(texts: Sequence[list[int]] | Sequence[tuple[int, ...]]) -> list[int]:
    """Return the longest common prefix of token sequences."""
    smallest, largest = min(texts), max(texts)  # in lexicographic order: all texts share what these two share
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(smallest, largest, strict=False))]


def pad_answers(answers: Sequence[Tensor], prepared: PreparedBatch) -> Tensor:
    """Stack answers, (length,) each, padded on the right."""
    return torch.nn.utils.rnn.pad_sequence(list(answers), batch_first=True, padding_value=prepared.pad or 0)


def _select_beams(beams: Tensor, index: Tensor) -> Tensor:
    """Select beams of each prompt: (prompts, beams, length) by (prompts, picked)."""
    return beams.gather(1, index[:, :, None].expand(-1, -1, beams.shape[2]))
