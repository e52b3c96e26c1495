"""The finished hypotheses of a beam search, with two rules for the length that divides a score.

transformers 5 divides by the length of the answer, its end mark included. transformers 4.29 and 4.31 divided by the
length of prompt and answer, without the end mark; the published figures of beam search and OPERA come from them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from mmhall.adapters import Adapter, Inputs

RULED_OUT = -5e8  # tokens that a strategy rules out score less, all others more
LENGTH_RULES = ("answer", "official")


def prompt_lengths(rule: str, adapter: Adapter, inputs: Inputs) -> Tensor | None:
    """Return the prompt lengths that a session adds to the length of an answer.

    Args:
        rule: "official": the tokens of each prompt as written, a run of image positions counted as one; or "answer".
        adapter: The model.
        inputs: A batch.

    Returns:
        (batch,); None: nothing is added.
    """
    if rule == "answer":
        return None
    image = adapter.placeholders(inputs["input_ids"])
    inside = image & nn.functional.pad(image, (1, 0))[:, :-1]
    return inputs["attention_mask"].sum(dim=1) - inside.sum(dim=1)


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a beam search ends.

    Attributes:
        early: `early_stopping` as transformers defines it: True, False or "never".
        penalty: Exponent of the length that divides a score.
        room: Most tokens of an answer.
    """

    early: bool | str
    penalty: float
    room: int


class Pool:
    """The finished hypotheses of one prompt, best first; closed once no running beam can improve on them.

    Scores are divided by the length of the answer, as in transformers 5.
    """

    def __init__(self, size: int, stopping: Stopping) -> None:
        """Start empty; `size` is the number of beams."""
        self._size, self._stopping, self.open = size, stopping, True
        self._entries: list[tuple[bool, float, Tensor]] = []

    def take(self, answers: Tensor, values: Tensor, ended: Tensor, marked: Tensor, alive: Tensor) -> None:
        """Add the best candidates that have ended.

        Candidates beyond the number of beams only serve to go on with. Answers with tokens that were ruled out rank
        last: they fill the pool where there is nothing better.

        Args:
            answers: The candidates, likeliest first, (candidates, length).
            values: Their summed log-probabilities, (candidates,).
            ended: Whether each has ended, (candidates,) bool.
            marked: Whether it ends with an end mark, (candidates,) bool.
            alive: Summed log-probability of the best running beam, a scalar.
        """
        if not self.open:
            return
        length = answers.shape[1]
        for index in ended[: self._size].nonzero()[:, 0].tolist():
            self._put(answers[index], values[index], length)
        self._close(alive, length, self._stopping.room)

    def best(self, count: int) -> list[Tensor]:
        """Return the best answers, (length,) each."""
        return [sequence for _, _, sequence in self._entries[:count]]

    def scored(self) -> list[tuple[float, Tensor]]:
        """Return all answers with their scores."""
        return [(score, sequence) for _, score, sequence in self._entries]

    def copy(self) -> Pool:
        """Return an independent copy."""
        copied = copy.copy(self)
        copied._entries = list(self._entries)
        return copied

    def _put(self, answer: Tensor, value: Tensor, length: int) -> None:
        """Add an answer behind those of the same score."""
        rank = bool(value > RULED_OUT), self._score(value, length)
        self._entries.insert(sum(entry[:2] >= rank for entry in self._entries), (*rank, answer))
        del self._entries[self._size :]

    def _close(self, best: Tensor, length: int, longest: int) -> None:
        """Close a full pool if stopping early, or if no running beam can reach a better score."""
        if len(self._entries) < self._size or not self._entries[-1][0]:
            return
        early, penalty = self._stopping.early, self._stopping.penalty
        best_score = self._score(best, longest if early == "never" and penalty > 0 else length)
        self.open = early is not True and best_score > self._entries[-1][1]

    def _score(self, value: Tensor, length: int) -> float:
        return float(value / length**self._stopping.penalty)  # in the precision in which transformers 5 compares


class WholePool(Pool):
    """A pool that counts as transformers 4.29 did: prompt and answer, without the end mark.

    Three more details differ from `Pool`. A search goes on while its best candidate, even one that has ended, could
    beat the worst answer held. An answer cut at the token limit counts only if it was running and the search was not
    over. Of equal scores the later answer ranks first.
    """

    def __init__(self, size: int, stopping: Stopping, prompt: int) -> None:
        """Start empty; `prompt` is the length of the prompt."""
        super().__init__(size, stopping)
        self._prompt = prompt

    def take(self, answers: Tensor, values: Tensor, ended: Tensor, marked: Tensor, alive: Tensor) -> None:
        """Add candidates with an end mark, then, if the search goes on, running answers at the token limit."""
        if not self.open:
            return
        length = self._prompt + answers.shape[1]
        for index in marked[: self._size].nonzero()[:, 0].tolist():
            self._put(answers[index], values[index], length - 1)
        self._close(values[0], length, self._prompt + self._stopping.room)
        running = ~marked & ((~marked).cumsum(dim=0) <= self._size)
        for index in (running & ended).nonzero()[:, 0].tolist() if self.open else ():
            self._put(answers[index], values[index], length)

    def _put(self, answer: Tensor, value: Tensor, length: int) -> None:
        """Add an answer before those of the same score; a full pool takes only answers better than its worst."""
        rank = bool(value > RULED_OUT), self._score(value, length)
        at = sum(entry[:2] > rank for entry in self._entries)
        if len(self._entries) < self._size or self._entries[-1][:2] < rank:
            self._entries.insert(at, (*rank, answer))
            del self._entries[self._size :]

    def _score(self, value: Tensor, length: int) -> float:
        score: float = float(value) / length**self._stopping.penalty
        return score
