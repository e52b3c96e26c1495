"""Side-by-side answers of several strategies to one prompt, each column with its own clock.

The columns take turns, one decoding step each: the time of one strategy never counts for another, and a fast strategy
does not wait for the end of a slow one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmhall.demo.failures import as_model_errors
from mmhall.errors import MmhallError

if TYPE_CHECKING:
    from mmhall.answers import Answer
    from mmhall.generation import Stream
    from mmhall.lvlm import LVLM
    from mmhall.strategies import Strategy

_UPDATE_EVERY = 0.08  # seconds


@dataclass(frozen=True, slots=True)
class Column:
    """The answer of one strategy so far.

    Attributes:
        strategy: Specification, as requested.
        state: "waiting", "reading", "writing", "ended", "stopped" or "failed".
        text: The text so far.
        steps: Decoding steps taken so far.
        seconds: Time of this column's steps so far.
        reading_seconds: Seconds of these until the first step was done, in which the prompt is read.
        answer: The answer, once it has ended or was stopped.
        error: Why it failed.
    """

    strategy: str
    state: str = "waiting"
    text: str = ""
    steps: int = 0
    seconds: float = 0.0
    reading_seconds: float = 0.0
    answer: Answer | None = None
    error: str = ""


def compare(
    lvlm: LVLM,
    image: Image.Image,
    prompt: str,
    strategies: Sequence[Strategy],
    should_stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Iterator[tuple[Column, ...]]:
    """Answer one prompt with several strategies; yields the columns at short intervals, and at the end.

    The column of a strategy that fails holds the reason; the others go on. Closing the iterator stops all of them.

    Args:
        lvlm: The model.
        image: RGB.
        prompt: The user's text.
        strategies: One for each column.
        should_stop: Called before every step; True: stop, and keep the text so far.
        **settings: As in `LVLM.stream`.
    """
    columns = [Column(str(method)) for method in strategies]
    streams: dict[int, Stream] = {}
    updated = perf_counter()
    yield tuple(columns)
    try:
        for index, method in enumerate(strategies):
            if should_stop():
                columns[index] = replace(columns[index], state="stopped")
                continue
            try:
                with as_model_errors():
                    streams[index] = lvlm.stream(image, prompt, method, uncertainty=True, **settings)
            except MmhallError as error:
                columns[index] = replace(columns[index], state="failed", error=str(error))
        while streams and not should_stop():
            for index, stream in list(streams.items()):
                if should_stop():
                    break
                first = columns[index].state == "waiting"
                if first:
                    columns[index] = replace(columns[index], state="reading")
                    yield tuple(columns)
                columns[index] = _advance(columns[index], stream)
                if columns[index].state != "writing":
                    del streams[index]
                if first or perf_counter() - updated > _UPDATE_EVERY:
                    yield tuple(columns)
                    updated = perf_counter()
        for index, stream in streams.items():
            columns[index] = _finish(columns[index], stream)
        yield tuple(columns)
    finally:
        for stream in streams.values():
            stream.close()


def _finish(column: Column, stream: Stream) -> Column:
    try:
        with as_model_errors():
            answer = stream.stop()
    except MmhallError as error:
        return replace(column, state="failed", error=str(error))
    text = answer.text if answer is not None else column.text
    return replace(column, state="stopped", text=text, answer=answer)


def _advance(column: Column, stream: Stream) -> Column:
    try:
        with as_model_errors():
            piece = stream.step()
    except MmhallError as error:
        return replace(column, state="failed", error=str(error))
    answer = stream.answer
    column = replace(column, seconds=stream.seconds if answer is None else answer.usage.seconds)
    if column.steps == 0:
        column = replace(column, reading_seconds=column.seconds)
    if answer is not None:
        return replace(column, state="ended", text=answer.text, answer=answer)
    return replace(column, state="writing", text=column.text + (piece or ""), steps=column.steps + 1)
