"""The base of strategies' own searches: each for one prompt, streaming the tokens that are settled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence

import torch
from torch import Tensor

from mmhall.attention import Memory
from mmhall.generation._beams import pad_answers
from mmhall.generation._job import Decoding
from mmhall.generation._sampling import Answers
from mmhall.generation._scheduling import Scheduler
from mmhall.generation._search_rows import Resume, Steps


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
    def run(self) -> Steps | list[Tensor]:
        """Search, as a generator of requests that returns `count` answers, best first, (length,) each.

        A request is `resume(...)`, a `Feed`, a `Split` or a `Keep` of the rows that it returns, an `Ask`, or a list of
        generators that run side by side. A search that makes its passes itself, with rows of its own such as
        `decoding.rows.taken`, need not be a generator: it runs before those that are.
        """

    def resume(self, texts: Sequence[Sequence[int]], memories: Sequence[Memory] | None = None) -> Resume:
        """Request to read partial answers of equal length; the result are rows at their ends, one for each.

        Args:
            texts: Tokens of each.
            memories: Memory of each text's row before its last token was read, `SearchRows.memory`; None: nothing was
                stored, as before the first token.
        """
        return Resume(self.prompt, texts, [Memory()] * len(texts) if memories is None else memories)

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
    """Search for the answers to all prompts together; the result of a `Session.search`.

    One prompt after the other is searched where the answers are streamed, or where something needs every row of a batch
    in each pass (`Op.whole`).
    """
    rows = decoding.rows
    if rows.whole or decoding.job.streamer is not None:
        found = [Scheduler(rows).run([_steps(search)])[0] for search in searches]
    else:
        found = Scheduler(rows).run([_steps(search) for search in searches])
    return pad_answers([answer for answers in found for answer in answers], decoding.prepared)


def _steps(search: PromptSearch) -> Steps:
    """Run a search as a generator."""
    found = search.run()
    return (yield from found) if isinstance(found, Generator) else found
