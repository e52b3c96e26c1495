"""The base of strategies' own searches: prompt by prompt, streaming the tokens that are settled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mmhall.attention import Memory
from mmhall.generation._beams import pad_answers
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._job import Decoding
from mmhall.generation._sampling import Answers


class PromptSearch(ABC):
    """A search for the answers to one prompt of a batch."""

    def __init__(self, decoding: Decoding, prompt: int) -> None:
        """Start at the end of a prompt.

        Args:
            decoding: The batch.
            prompt: 0-based index of the prompt in the batch.
        """
        self.decoding, self.prompt = decoding, prompt
        self.device = decoding.prepared.input_ids.device
        self.count = decoding.job.config.num_return_sequences or 1
        self._streamed = 0

    @abstractmethod
    def run(self) -> list[Tensor]:
        """Return `count` answers, best first, (length,) each."""

    def resume(self, texts: Sequence[Sequence[int]], memories: Sequence[Memory]) -> DecodeBatch:
        """Read partial answers of equal length, and return rows at their ends, one for each.

        Args:
            texts: Tokens of each.
            memories: Memory of each text's row before its last token was read, `DecodeBatch.memory`.
        """
        rows = self.decoding.rows.taken(torch.full((len(texts),), self.prompt, device=self.device))
        said = torch.tensor([list(text) for text in texts], dtype=torch.long, device=self.device)
        memory = Memory.join(memories)
        if said.shape[1]:
            last = 1 if rows.one_by_one or list(memory) else 0
            rows.reread(said[:, : said.shape[1] - last], memory)
            if last:
                rows.step(said[:, -1])
        return rows

    def tell(self, settled: Sequence[int]) -> None:
        """Stream the tokens that all possible answers begin with, without those streamed before."""
        streamer = self.decoding.job.streamer
        if streamer is not None and len(settled) > self._streamed:
            streamer.put(torch.tensor(settled[self._streamed :]))
            self._streamed = len(settled)

    def end(self, best: Sequence[int]) -> None:
        """Stream the rest of the best answer, and end the stream."""
        self.tell(best)
        if self.decoding.job.streamer is not None:
            self.decoding.job.streamer.end()


def greedy_search(decoding: Decoding) -> Tensor:
    """Decode greedily, as a `Session.search`; all answers to a prompt are the same."""
    job = decoding.job
    answers = Answers(decoding.prepared, decoding.rows, None, 1, job.streamer, leave=job.leave).finish()
    return answers.repeat_interleave(job.config.num_return_sequences or 1, dim=0)


def run_searches(decoding: Decoding, searches: Iterable[PromptSearch]) -> Tensor:
    """Search for the answers to each prompt, one prompt after the other; the result of a `Session.search`."""
    return pad_answers([answer for search in searches for answer in search.run()], decoding.prepared)
