"""An answer while it is written: one decoding step at a time, whenever somebody asks for it.

The model runs in a thread of its own, but only while a step is asked for. So several answers can be written in turn,
each on its own clock, and one that nobody asks for any more costs nothing.
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
    """Hands the turn to a writing thread and back.

    Attributes:
        spent: Seconds of all turns that were given back.
        left: Nobody asks any more.
    """

    def __init__(self) -> None:
        """Nobody has a turn yet."""
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._began, self.spent = 0.0, 0.0
        self.left = False

    @property
    def seconds(self) -> float:
        """Time spent writing so far; the writer asks, while it has the turn."""
        return self.spent + perf_counter() - self._began

    def pause(self) -> bool:
        """Give the turn back between two steps, wait for the next one, and say whether to stop."""
        self.give_back()
        self.wait()
        return self.left

    def wait(self) -> None:
        """Wait for a turn; the writer's side."""
        self._go.acquire()
        self._began = perf_counter()

    def give_back(self) -> None:
        """Give the turn back; the writer's side."""
        self.spent = self.seconds
        self._back.release()

    def grant(self) -> None:
        """Let the writer take one turn, and wait until it has; an interrupted wait is the end of all turns."""
        self._go.release()
        try:
            self._back.acquire()
        except BaseException:
            self.left = True
            raise

    def dismiss(self) -> None:
        """Let the writer run to its end, which is near."""
        self.left = True
        self._go.release()


class Stream(Iterator[str]):
    """An answer being written; iterate over it for its text, piece by piece.

    Attributes:
        answer: The whole answer, once it has ended; once it was stopped, what there was of it, and `stopped_by` says
            "stopped". Its seconds are those of its own steps. None before.
    """

    def __init__(self, write: Write, tokenizer: Any, stops: Sequence[str] = (), prepared: float = 0.0) -> None:
        """Get ready; nothing is computed yet.

        Args:
            write: Writes the answer: gives its tokens to the streamer, if it knows them before the end, and calls
                `Turns.pause` between steps.
            tokenizer: Decodes.
            stops: Strings that end the text and are cut off.
            prepared: Seconds that it took to get ready.
        """
        self.answer: Answer | None = None
        self._turns, self._end, self._prepared = Turns(), _End(), prepared
        self._said, self._cut = _Pieces(tokenizer), _Cut(stops)
        self._thread = threading.Thread(
            target=_work, args=(write, self._said, self._turns, self._end), name="mmhall stream", daemon=True
        )

    @property
    def seconds(self) -> float:
        """Time of its own steps so far, whatever was done between them; with what comes after an answer's end."""
        return self._prepared + self._turns.spent

    def step(self) -> str | None:
        """Take one decoding step.

        Returns:
            The text that has become certain by it, which may be ""; None: the answer is whole.

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
        return self._cut(self._said.taken(), last=self._end.reached)

    def stop(self) -> Answer | None:
        """End the answer where it is; return what there is of it, None if nothing was begun."""
        if not self._end.reached:
            self._turns.dismiss()
            if self._thread.ident is None:
                self._end.reached = True
            else:
                self._settle()
        return self.answer

    def close(self) -> None:
        """Stop, whatever comes of it."""
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
        """Stop what nobody can read any more."""
        if hasattr(self, "_thread"):
            self.close()


class _End:
    """How the writing thread ended; apart from the stream, so that a forgotten stream can be collected."""

    def __init__(self) -> None:
        self.reached = False
        self.answer: Answer | None = None
        self.error: BaseException | None = None


def _work(write: Write, said: _Pieces, turns: Turns, end: _End) -> None:
    turns.wait()
    try:
        if not turns.left:
            end.answer = write(said, turns)
            if not said.begun:
                said.on_finalized_text(end.answer.text)
    except BaseException as error:
        end.error = error
    end.reached = True
    turns.give_back()


@dataclass(frozen=True, slots=True)
class _Reader:
    """Decodes for a streamer as answers are decoded."""

    tokenizer: Any

    def decode(self, token_ids: int | Sequence[int]) -> str:
        return decode_answer(self.tokenizer, [token_ids] if isinstance(token_ids, int) else token_ids)


class _Pieces(TextStreamer):
    """Collects text as it becomes certain."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(_Reader(tokenizer))
        self._pieces = list[str]()
        self.begun = False

    def put(self, value: Any) -> None:
        self.begun = True
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._pieces.append(text)

    def taken(self) -> str:
        """Return what has come since the last time."""
        text = "".join(self._pieces)
        self._pieces.clear()
        return text


class _Cut:
    """Passes a text on up to the first stop string; what could be the start of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._text, self._told = stops, "", 0
        self._held = max(map(len, stops), default=1) - 1

    def __call__(self, piece: str, *, last: bool) -> str:
        self._text += piece
        end = min([self._text.index(stop) for stop in self._stops if stop in self._text], default=None)
        held = 0 if last else self._held
        safe = max(self._told, len(self._text) - held) if end is None else end
        told, self._told = self._told, safe
        return self._text[told:safe]
