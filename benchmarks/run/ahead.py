"""The next batch, read in a thread while the model answers the one before it.

Pictures are opened and processed and prompts tokenised while a GPU computes. One batch is read ahead, the one that this
process will probably lease next; if another one is leased, what was read is dropped. The thread moves its tensors to
the model's device under the context of the runner's thread, and so on its CUDA stream; its tokenizers are its own.

An error of the thread is dropped too: the batch is read again when it is asked, and the error is raised there. So is a
batch of which a picture file has changed since: its digest is taken when it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

from mmhall.adapters import Adapter
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.run.inputs import BatchInputs
from mmhall.benchmarks.run.runs import Part
from mmhall.generation import CallerContext
from mmhall.lvlm import LVLM

FileStates = dict[Path, tuple[int, int]]
"""Size in bytes and time of the last change in nanoseconds of each file."""


class ReadAhead:
    """Reads batches of one benchmark, at most one ahead; its `with` block ends with the thread."""

    def __init__(self, lvlm: LVLM, part: Part) -> None:
        """Start without a thread.

        Args:
            lvlm: The model.
            part: The benchmark.
        """
        self._lvlm, self._part = lvlm, part
        self._thread = ThreadPoolExecutor(1, "mmhall-ahead")
        self._items: Sequence[Item] = ()
        self._reading: Future[tuple[FileStates, BatchInputs]] | None = None

    def __enter__(self) -> ReadAhead:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop what was read, and wait for the end of the thread."""
        self.drop()
        self._thread.shutdown()

    def begin(self, items: Sequence[Item]) -> None:
        """Begin to read items in the thread; what was read ahead before is dropped."""
        self.drop()
        reader = self._reader if items else None  # made here, as no other thread may use what it copies
        if reader is not None:
            read = CallerContext(reader.device).wrap(self._read)
            self._items, self._reading = items, self._thread.submit(read, items, reader)

    def take(self, items: Sequence[Item]) -> BatchInputs:
        """Return the inputs of items, read ahead or now; see `BatchInputs`."""
        inputs = self._read_already(items) or BatchInputs(self._lvlm, self._part, items)
        inputs.release = self.drop
        return inputs

    def _read_already(self, items: Sequence[Item]) -> BatchInputs | None:
        reading, same = self._reading, list(items) == list(self._items)
        self.drop(cancel=not same)
        if reading is not None and same and reading.exception() is None:
            states, inputs = reading.result()
            if inputs.is_read and states == self._states(items):
                return inputs
        return None

    def drop(self, *, cancel: bool = True) -> None:
        """Forget what is read ahead; with `cancel`, reading does not begin if it has not."""
        if self._reading is not None and cancel:
            self._reading.cancel()
        self._items, self._reading = (), None

    def _read(self, items: Sequence[Item], reader: Adapter) -> tuple[FileStates, BatchInputs]:
        states = self._states(items)  # before the content
        return states, BatchInputs(self._lvlm, self._part, items, reader)

    @cached_property
    def _reader(self) -> Adapter | None:
        """Reads for the thread; None: the processor cannot be copied, and nothing is read ahead."""
        try:
            return self._lvlm.adapter.for_thread()
        except Exception:
            return None

    def _states(self, items: Sequence[Item]) -> FileStates:
        """Return the states of the pictures' files; those that are missing are left out."""
        states = FileStates()
        for path in {path for path in map(self._part.picture, items) if path is not None}:
            try:
                status = path.stat()
            except OSError:
                continue
            states[path] = status.st_size, status.st_mtime_ns
        return states
