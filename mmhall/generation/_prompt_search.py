"""What the searches of strategies share: they go from prompt to prompt, and tell what no later step can take back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mmhall.generation._beams import padded
from mmhall.generation._job import Decoding


class PromptSearch(ABC):
    """A search for the answers to one prompt of a batch."""

    def __init__(self, decoding: Decoding, prompt: int) -> None:
        """Start at the end of a prompt.

        Args:
            decoding: The batch.
            prompt: Which of its prompts, 0-based.
        """
        self.decoding, self.prompt = decoding, prompt
        self.device = decoding.prepared.input_ids.device
        self.count = decoding.job.config.num_return_sequences or 1
        self._told = 0

    @abstractmethod
    def run(self) -> list[Tensor]:
        """Return as many answers as are asked for, best first, (length,) each."""

    def tell(self, settled: Sequence[int]) -> None:
        """Stream the tokens that every answer still possible begins with, as far as they are new."""
        streamer = self.decoding.job.streamer
        if streamer is not None and len(settled) > self._told:
            streamer.put(torch.tensor(settled[self._told :]))
            self._told = len(settled)

    def end(self, best: Sequence[int]) -> None:
        """Stream the rest of the best answer, and end the stream."""
        self.tell(best)
        if self.decoding.job.streamer is not None:
            self.decoding.job.streamer.end()


def run_searches(decoding: Decoding, searches: Iterable[PromptSearch]) -> Tensor:
    """Run the search of each prompt, one after the other, as `Session.search`."""
    return padded([answer for search in searches for answer in search.run()], decoding.prepared)
