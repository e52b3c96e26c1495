"""The inputs of a batch of items, and their prompts as the chat template writes them, made once for all strategies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from mmhall.adapters import Adapter, Batch, Conversation, ProcessedPictures, process_once
from mmhall.answers import Answer
from mmhall.attention import Features, reuse_features
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.rules.thoughts import restore_opening_mark
from mmhall.benchmarks.run.runs import Part
from mmhall.errors import DataError, GenerationError, ImageError, PromptError, is_out_of_memory
from mmhall.generation import make_requests
from mmhall.lvlm import LVLM

ITEM_ERRORS = ImageError, PromptError, GenerationError, DataError
"""Errors caused by one item; any other error ends the run."""


class BatchInputs:
    """The inputs of a batch of items: a picture is opened, processed and encoded once.

    Attributes:
        lvlm: The model.
        part: The benchmark.
        items: The items.
        release: Frees memory beside this batch; called where memory is exhausted.
    """

    def __init__(self, lvlm: LVLM, part: Part, items: Sequence[Item], reader: Adapter | None = None) -> None:
        """Read the items; where one cannot be read, those that are asked are read each time, and say so.

        Args:
            lvlm: The model.
            part: The benchmark.
            items: The items.
            reader: Reads the items; None: the model's adapter.
        """
        reader = lvlm.adapter if reader is None else reader
        self.lvlm, self.part, self.items = lvlm, part, list(items)
        self.release: Callable[[], None] = lambda: None
        self._places = {item.id: place for place, item in enumerate(items)}
        self._batch: Batch | None = None
        self._prompts: list[str] = []
        self._features, self._processed = Features(), ProcessedPictures()
        try:
            with process_once(self._processed):
                self._batch = self._read(items, reader)
            self._prompts = write_prompts(reader, items)
        except (*ITEM_ERRORS, MemoryError, RuntimeError) as error:
            if not isinstance(error, ITEM_ERRORS) and not is_out_of_memory(error):
                raise

    @property
    def is_read(self) -> bool:
        """Whether all items could be read."""
        return self._batch is not None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Process and encode a picture once in all these contexts; without memory to keep its features, anew."""
        try:
            with process_once(self._processed), reuse_features(self._features):
                yield
        except (MemoryError, RuntimeError):
            self._features.clear()
            self.release()
            raise

    def of(self, items: Sequence[Item]) -> Batch:
        """Return the inputs of some of the items.

        Raises:
            MmhallError: The batch could not be read, nor can these.
        """
        if self._batch is None:
            return self._read(items, self.lvlm.adapter)
        places = [self._places[item.id] for item in items]
        whole = places == list(range(len(self.items)))
        return self._batch if whole else self.lvlm.adapter.picked(self._batch, places)

    def prompts(self, items: Sequence[Item]) -> list[str]:
        """Return the prompts of some of the items; see `write_prompts`."""
        if self._batch is None:
            return write_prompts(self.lvlm.adapter, items)
        return [self._prompts[self._places[item.id]] for item in items]

    def _read(self, items: Sequence[Item], reader: Adapter) -> Batch:
        return reader.inputs(make_requests([self.part.request(item) for item in items]))


def write_prompts(adapter: Adapter, items: Sequence[Item]) -> list[str]:
    """Return the prompts of items as the model's chat template writes them; empty for a model without chat format."""
    chat = adapter.chat
    if chat is None:
        return [""] * len(items)
    return [chat.write(Conversation.from_prompt(item.prompt, int(item.picture is not None))) for item in items]


def reopen_thoughts(prompts: Sequence[str], answers: Sequence[Answer]) -> list[Answer]:
    """Put the opening mark of thoughts, which the chat template wrote, before answers that do not close it.

    Args:
        prompts: The prompts, from `write_prompts`.
        answers: Answer to each prompt.
    """
    return [replace(a, text=restore_opening_mark(prompt, a.text)) for prompt, a in zip(prompts, answers, strict=True)]
