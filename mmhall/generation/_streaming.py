"""Stream an answer: one decoding step at a time, on demand.

The model runs in a thread of its own, but only while a step is requested. So several answers can be written in turn,
each with its own clock, and an abandoned one costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from transformers import TextStreamer

from mmhall.answers import Answer
from mmhall.words import decode_answer

if TYPE_CHECKING:
    from transformers.generation import BaseStreamer

Write = Callable[["BaseStreamer", "Turns"], Answer]


class Turns:
    """Alternates the turns of a writing thread and its reader: one decoding step each turn.

    Attributes:
        spent: Seconds of all turns that have ended.
        left: Whether the reader has stopped.
    """

    def __init__(self) -> None:
        """Start without a turn."""
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._began, self.spent = 0.0, 0.0
        self.left = False

    @property
    def seconds(self) -> float:
        """Seconds of writing so far; for the writer, during its turn."""
        return self.spent + perf_counter() - self._began

    def pause(self) -> bool:
        """End the turn, wait for the next one, and return whether to stop; for the writer, between steps."""
        self.give_back()
        self.wait()
        return self.left

    def wait(self) -> None:
        """Wait for a turn; for the writer."""
        self._go.acquire()
        self._began = perf_counter()

    def give_back(self) -> None:
        """End the turn; for the writer."""
        self.spent = self.seconds
        self._back.release()

    def grant(self) -> None:
        """Let the writer take one turn and wait for its end; an interrupted wait ends all turns."""
        self._go.release()
        try:
            self._back.acquire()
        except BaseException:
            self.left = True
            raise

    def dismiss(self) -> None:
        """Let the writer finish: it stops at its next pause."""
        self.left = True
        self._go.release()


class Stream(Iterator[str]):
    """An answer being written; iterate over it for pieces of its text.

    Attributes:
        answer: The whole answer once it has ended, or the part written before `stop`, with `stopped_by` "stopped".
            Its seconds are those of its own steps. None before.
    """

    def __init__(self, write: Write, tokenizer: Any, stops: Sequence[str] = (), prepared: float = 0.0) -> None:
        """Prepare the writing thread; nothing is computed yet.

        Args:
            write: Writes the answer: puts its tokens into the streamer, if they are settled before the end, and calls
                `Turns.pause` between steps.
            tokenizer: Decodes the tokens.
            stops: Stop strings, cut off the text.
            prepared: Seconds of the preparation.
        """
        self.answer: Answer | None = None
        self._turns, self._end, self._prepared = Turns(), _End(), prepared
        self._text, self._cut = _TextBuffer(tokenizer), _StopStringCutter(stops)
        self._thread = threading.Thread(
            target=_work, args=(write, self._text, self._turns, self._end), name="mmhall stream", daemon=True
        )

    @property
    def seconds(self) -> float:
        """Seconds of its own steps so far, without the time between them."""
        return self._prepared + self._turns.spent

    def step(self) -> str | None:
        """Take one decoding step.

        Returns:
            The text that became certain in this step, maybe ""; None: the answer has ended.

        Raises:
            MmhallError: What `LVLM.generate` would raise.
        """
        if self._end.reached or self._turns.left:
            return None
        if self._thread.ident is None:
            self._thread.start()
        self._turns.grant()
        if self._end.reached:
            self._settle()
        return self._cut(self._text.take(), last=self._end.reached)

    def stop(self) -> Answer | None:
        """Stop and return the answer so far; None if nothing was begun."""
        if not self._end.reached:
            self._turns.dismiss()
            if self._thread.ident is None:
                self._end.reached = True
            else:
                self._settle()
        return self.answer

    def close(self) -> None:
        """Stop, and ignore errors of the writer."""
        if not self._end.reached:
            self._turns.dismiss()
            if self._thread.ident is not None:
                self._thread.join()
            self._end.reached = True

    def _settle(self) -> None:
        self._thread.join()
        self.answer = self._end.answer
        if self._end.error is not None:
            raise self._end.error

    def __next__(self) -> str:
        """Return the next piece of text."""
        while (piece := self.step()) is not None:
            if piece:
                return piece
        raise StopIteration

    def __del__(self) -> None:
        """Stop when the stream is collected."""
        if hasattr(self, "_thread"):
            self.close()


class _End:
    """The result of the writing thread; separate from the stream, so that a forgotten stream can be collected."""

    def __init__(self) -> None:
        self.reached = False
        self.answer: Answer | None = None
        self.error: BaseException | None = None


def _work(write: Write, text: _TextBuffer, turns: Turns, end: _End) -> None:
    turns.wait()
    try:
        if not turns.left:
            end.answer = write(text, turns)
            if not text.begun:
                text.on_finalized_text(end.answer.text)
    except BaseException as error:
        end.error = error
    end.reached = True
    turns.give_back()


@dataclass(frozen=True, slots=True)
class _TokenDecoder:
    """Decodes tokens for a streamer as for answers."""

    tokenizer: Any

    def decode(self, token_ids: int | Sequence[int]) -> str:
        return decode_answer(self.tokenizer, [token_ids] if isinstance(token_ids, int) else token_ids)


class _TextBuffer(TextStreamer):
    """Collects text as it becomes certain."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(_TokenDecoder(tokenizer))
        self._pieces = list[str]()
        self.begun = False

    def put(self, value: Any) -> None:
        self.begun = True
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._pieces.append(text)

    def take(self) -> str:
        """Return and clear the text since the last call."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return text


class _StopStringCutter:
    """Passes text on up to the first stop string; holds back what could be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._text, self._passed = stops, "", 0
        self._longest_start = max(map(len, stops), default=1) - 1

    def __call__(self, piece: str, *, last: bool) -> str:
        self._text += piece
        end = min([self._text.index(stop) for stop in self._stops if stop in self._text], default=None)
        uncertain = 0 if last else self._longest_start
        safe = max(self._passed, len(self._text) - uncertain) if end is None else end
        start, self._passed = self._passed, safe
        return self._text[start:safe]
