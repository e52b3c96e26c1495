"""Asks a model for captions and yes/no answers, in batches, by greedy decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmhall.adapters import Inputs
from mmhall.answers import Answer
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.data.pictures import PictureSet
from mmhall.benchmarks.evidence.threshold import SCORE, yes_score
from mmhall.benchmarks.run.inputs import reopen_thoughts, write_prompts
from mmhall.benchmarks.run.runner import batches
from mmhall.generation import make_requests
from mmhall.images import ImageLike
from mmhall.lvlm import LVLM
from mmhall.results.store import Row

YES_NO_TOKENS = 8
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Asker:
    """A model and the pictures it is asked about.

    Attributes:
        lvlm: The model.
        pictures: The pictures.
        batch_size: Largest number of questions answered together.
        progress: Called with the number of answers of each batch.
    """

    lvlm: LVLM
    pictures: PictureSet
    batch_size: int
    progress: Progress

    def captions(self, items: Sequence[Item], max_new_tokens: int) -> Iterator[list[tuple[Item, Answer]]]:
        """Yield the captions of items, batch by batch."""
        for batch in batches(items, self.batch_size):
            answers = self._answers(batch, None, max_new_tokens=max_new_tokens)
            yield list(zip(batch, answers, strict=True))
            self.progress(len(batch))

    def yes_no(self, items: Sequence[Item], picture: ImageLike | None = None) -> dict[str, Row]:
        """Return the answer to each yes/no question, by id, with its score where there is one.

        Args:
            items: The questions.
            picture: A picture in place of the items' own; None: their own.
        """
        rows: dict[str, Row] = {}
        for number, batch in enumerate(batches(items, self.batch_size)):
            for item, answer in zip(batch, self._answers(batch, picture, scores=1), strict=True):
                score = None if answer.scores is None else yes_score(self.lvlm.adapter, answer.scores[0])
                extra = None if score is None else {SCORE: score}
                usage = answer.usage
                rows[item.id] = Row(
                    "pope",
                    item.id,
                    "greedy",
                    answer.text,
                    answer.stopped_by,
                    usage.new_tokens,
                    usage.seconds,
                    number,
                    extra,
                )
            self.progress(len(batch))
        return rows

    def inputs(self, items: Sequence[Item]) -> Inputs:
        """Return the model's inputs for items, as a batch."""
        return self.lvlm.adapter.inputs(make_requests([(self.path(item), item.prompt) for item in items]))

    def path(self, item: Item) -> Path:
        """Return the picture file of an item."""
        return self.pictures[str(item.picture)].path

    def _answers(
        self, items: Sequence[Item], picture: ImageLike | None, max_new_tokens: int = YES_NO_TOKENS, scores: int = 0
    ) -> list[Answer]:
        requests = [(self.path(item) if picture is None else picture, item.prompt) for item in items]
        answers = self.lvlm.generate_batch(requests, scores=scores, max_new_tokens=max_new_tokens)
        return reopen_thoughts(write_prompts(self.lvlm.adapter, items), answers)
