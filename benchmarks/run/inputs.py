"""The inputs of a batch of items, made once for all strategies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmhall.adapters import Batch, ProcessedPictures, process_once
from mmhall.attention import Features, reuse_features
from mmhall.benchmarks.base import Item
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
    """

    def __init__(self, lvlm: LVLM, part: Part, items: Sequence[Item]) -> None:
        """Read the items; where one cannot be read, those that are asked are read each time, and say so."""
        self.lvlm, self.part, self.items = lvlm, part, list(items)
        self._places = {item.id: place for place, item in enumerate(items)}
        self._batch: Batch | None = None
        self._features, self._processed = Features(), ProcessedPictures()
        try:
            with process_once(self._processed):
                self._batch = self._read(items)
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
            raise

    def of(self, items: Sequence[Item]) -> Batch:
        """Return the inputs of some of the items.

        Raises:
            MmhallError: The batch could not be read, nor can these.
        """
        if self._batch is None:
            return self._read(items)
        return self.lvlm.adapter.picked(self._batch, [self._places[item.id] for item in items])

    def _read(self, items: Sequence[Item]) -> Batch:
        return self.lvlm.adapter.inputs(make_requests([self.part.request(item) for item in items]))
