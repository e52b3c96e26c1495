"""The finished hypotheses of a beam search, and the two rules by which their lengths are counted.

transformers 5 divides a score by the length of the answer, its end mark included. transformers 4.29 and 4.31 divided it
by that of prompt and answer, without the end mark: published figures of beam search and OPERA are theirs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Tensor, nn

from mmhall.adapters import Adapter, Inputs

RULED_OUT = -5e8  # what a strategy rules out scores less than this, and everything else more
LENGTH_RULES = ("answer", "official")


def prompt_lengths(rule: str, adapter: Adapter, inputs: Inputs) -> Tensor | None:
    """Return what a session says of its prompts' lengths.

    Args:
        rule: "official": count the tokens of each prompt as it was written, a run of image positions as one; "answer".
        adapter: The model.
        inputs: A batch.

    Returns:
        (batch,); None: prompts do not count.
    """
    if rule == "answer":
        return None
    image = adapter.placeholders(inputs["input_ids"])
    inside = image & nn.functional.pad(image, (1, 0))[:, :-1]
    return inputs["attention_mask"].sum(dim=1) - inside.sum(dim=1)


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a search is over.

    Attributes:
        early: `early_stopping` as transformers defines it: True, False or "never".
        penalty: Exponent of the length that divides a score.
        room: Most tokens of an answer.
    """

    early: bool | str
    penalty: float
    room: int


class Pool:
    """The finished hypotheses of one prompt, best first; closed once nothing running can improve on them.

    Scores are divided by the length of the answer, as transformers 5 does.
    """

    def __init__(self, size: int, stopping: Stopping) -> None:
        """Start empty; `size` is the number of beams."""
        self._size, self._stopping, self.open = size, stopping, True
        self._held: list[tuple[bool, float, Tensor]] = []

    def take(self, answers: Tensor, values: Tensor, ended: Tensor, marked: Tensor, alive: Tensor) -> None:
        """Take in what has ended among the first candidates; later ones are there only to go on with.

        What a strategy rules out stands behind all else: it fills up what is asked for where nothing better is left.

        Args:
            answers: Of the candidates, likeliest first, (candidates, length).
            values: Their summed log-probabilities, (candidates,).
            ended: Whether each is over, (candidates,) bool.
            marked: Whether it is over by an end mark, its last token, (candidates,) bool.
            alive: Summed log-probability of the best that goes on, a scalar.
        """
        if not self.open:
            return
        length = answers.shape[1]
        for index in ended[: self._size].nonzero()[:, 0].tolist():
            self._put(answers[index], values[index], length)
        self._close(alive, length, self._stopping.room)

    def best(self, count: int) -> list[Tensor]:
        """Return the best answers, (length,) each."""
        return [sequence for _, _, sequence in self._held[:count]]

    def held(self) -> list[tuple[float, Tensor]]:
        """Return all answers with their scores."""
        return [(score, sequence) for _, score, sequence in self._held]

    def copy(self) -> Pool:
        """Return a pool that goes on by itself."""
        copied = copy.copy(self)
        copied._held = list(self._held)
        return copied

    def _put(self, answer: Tensor, value: Tensor, length: int) -> None:
        """Put in an answer, behind those of the same score."""
        rank = bool(value > RULED_OUT), self._score(value, length)
        self._held.insert(sum(held[:2] >= rank for held in self._held), (*rank, answer))
        del self._held[self._size :]

    def _close(self, best: Tensor, length: int, longest: int) -> None:
        """Close when full, and stopping early or no better score can be hoped for."""
        if len(self._held) < self._size or not self._held[-1][0]:
            return
        early, penalty = self._stopping.early, self._stopping.penalty
        hope = self._score(best, longest if early == "never" and penalty > 0 else length)
        self.open = early is not True and hope > self._held[-1][1]

    def _score(self, value: Tensor, length: int) -> float:
        return float(value / length**self._stopping.penalty)  # in the precision in which transformers 5 compares


class WholePool(Pool):
    """Counts as transformers 4.29 did: the prompt and the answer, without the end mark.

    Three more details are of that time. A search goes on while its best candidate, even one that has ended, promises
    more than the worst answer held. An answer that is cut at the most tokens counts only if it was running and the
    search was not over. Of equal scores the later answer stands first.
    """

    def __init__(self, size: int, stopping: Stopping, prompt: int) -> None:
        """Start empty; `prompt` is the length of the prompt."""
        super().__init__(size, stopping)
        self._prompt = prompt

    def take(self, answers: Tensor, values: Tensor, ended: Tensor, marked: Tensor, alive: Tensor) -> None:
        """Take in end marks among the first candidates, then, if the search goes on, running answers that are over."""
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
        """Put in an answer before those of the same score; a full pool takes only what beats its worst."""
        rank = bool(value > RULED_OUT), self._score(value, length)
        at = sum(held[:2] > rank for held in self._held)
        if len(self._held) < self._size or self._held[-1][:2] < rank:
            self._held.insert(at, (*rank, answer))
            del self._held[self._size :]

    def _score(self, value: Tensor, length: int) -> float:
        score: float = float(value) / length**self._stopping.penalty
        return score
