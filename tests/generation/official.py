"""Beam search as transformers 4.29 and 4.31 did it, one candidate after the other, every score read from scratch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mmhall.strategies import Session
from tests.generation.reference import anew

DEAD = -1e9


@dataclass
class Official:
    """How that search counts.

    Attributes:
        size: Number of beams.
        prompt: Tokens of the prompt, the picture one of them.
        longest: Most tokens of an answer.
        ends: Tokens that end an answer.
        early: `early_stopping`.
        penalty: `length_penalty`.
    """

    size: int
    prompt: int
    longest: int
    ends: tuple[int, ...]
    early: bool | str = False
    penalty: float = 1.0

    def add(self, finished, answer, total, length):
        """Add an answer, (score, answer), to the finished ones; the worst of too many goes."""
        score = total / length**self.penalty
        if len(finished) < self.size or score > min(finished)[0]:
            finished.append((score, answer))
            if len(finished) > self.size:
                finished.remove(min(finished, key=lambda pair: pair[0]))

    def step(self, beams, scores, finished):
        """Go on from beams, (answer, total) each; returns the next ones and their (beam, token) pairs, None at the end.

        Args:
            beams: Running answers.
            scores: Log-probabilities of their next tokens, (beams, vocabulary).
            finished: Finished ones, edited in place.
        """
        totals = torch.stack([row.clamp_min(DEAD) + total for row, (_, total) in zip(scores, beams, strict=True)])
        best = totals.flatten().topk(max(2, 1 + len(self.ends)) * self.size)
        grown, chosen = [], []
        for rank, (total, index) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            beam, token = divmod(index, totals.shape[1])
            answer = beams[beam][0]
            if token in self.ends:
                if rank < self.size:
                    self.add(finished, (*answer, token), total, self.prompt + len(answer))
            else:
                grown.append(((*answer, token), total))
                chosen.append((beam, token))
            if len(grown) == self.size:
                break
        if self.done(finished, float(best.values[0]), self.prompt + len(grown[0][0])):
            return None
        if len(grown[0][0]) == self.longest:
            for answer, total in grown:
                self.add(finished, answer, total, self.prompt + len(answer))
            return None
        return grown, chosen

    def done(self, finished, best, length):
        """Whether nothing better is hoped for."""
        if len(finished) < self.size:
            return False
        if self.early == "never" and self.penalty > 0:
            length = self.prompt + self.longest
        return self.early is True or min(finished)[0] >= best / length**self.penalty


@dataclass
class Search:
    """A search through the answers to one prompt."""

    adapter: object
    inputs: dict
    rule: Official
    session: Session = field(default_factory=Session)

    def run(self):
        """Return finished answers, best first."""
        beams, finished = [((), 0.0)] + [((), DEAD)] * (self.rule.size - 1), []
        while True:
            read = {said: anew(self.adapter, self.session, self.inputs, said) for said, _ in beams}
            scores = torch.stack([read[said].log_softmax(dim=-1) for said, _ in beams])
            grown = self.rule.step(beams, scores, finished)
            if grown is None:
                return [answer for _, answer in sorted(finished, key=lambda pair: -pair[0])]
            beams, _ = grown
