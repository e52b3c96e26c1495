"""Where each strategy looked: traces of a comparison's columns, kept for a while, and what is drawn from them.

A trace decodes an answer once more and watches; it is the same answer, so it is kept by what was asked rather than by
who asked, and the oldest make room when they take too much memory.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmhall.demo.failures import as_model_errors

if TYPE_CHECKING:
    from mmhall.analysis import Trace
    from mmhall.lvlm import LVLM
    from mmhall.words import Word


_ROOM = 2 << 30  # bytes


class TraceCache:
    """Traces of one model, by what was asked."""

    def __init__(self, lvlm: LVLM, room: int = _ROOM) -> None:
        """Start with none.

        Args:
            lvlm: The model.
            room: Bytes that kept traces may take; the latest one is kept whatever it takes.
        """
        self._lvlm, self._room, self._lock = lvlm, room, Lock()
        self._entries: OrderedDict[Any, Trace] = OrderedDict()

    def lookup(self, image: Image.Image, prompt: str, strategy: str, settings: dict[str, Any]) -> Trace | None:
        """Return a trace that is at hand."""
        return self._get(_key(image, prompt, strategy, settings))

    def get_or_trace(self, image: Image.Image, prompt: str, strategy: str, settings: dict[str, Any]) -> Trace:
        """Return a trace, made if need be.

        Raises:
            MmhallError: As `LVLM.trace`; also when memory runs out.
        """
        key = _key(image, prompt, strategy, settings)
        found = self._get(key)
        if found is not None:
            return found
        with as_model_errors():
            made = self._lvlm.trace(image, prompt, strategy, **settings)
        with self._lock:
            self._entries[key] = made
            while len(self._entries) > 1 and sum(map(size_of, self._entries.values())) > self._room:
                self._entries.popitem(last=False)
        return made

    def _get(self, key: Any) -> Trace | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)


@dataclass(frozen=True, slots=True)
class WordAttention:
    """Where one column looked when it wrote a word.

    Attributes:
        word: The word; None: the column did not write it.
        share: Share of its attention that fell on the picture, over the chosen layers and heads.
        picture: The picture, with the heat of that attention over it if the word was written.
    """

    word: Word | None
    share: float | None
    picture: Image.Image


def word_attention(
    trace: Trace, number: int | None, layers: Sequence[int] = (), heads: Sequence[int] = ()
) -> WordAttention:
    """Draw where the model looked for a word.

    Args:
        trace: Of the column.
        number: 0-based, of its words; None: it did not write the word.
        layers: Decoder layers to take the mean over; none: all.
        heads: Heads to take the mean over; none: all.

    Raises:
        OptionError: A layer or head does not exist.
    """
    if number is None or not 0 <= number < len(trace.words):
        return WordAttention(None, None, trace.pictures[0])
    word = trace.words[number]
    how: dict[str, Any] = {"layers": list(layers) or None, "heads": list(heads) or None}
    share = float(trace.token_attention(word.tokens, **how).sum())
    return WordAttention(word, share, trace.overlay(word.tokens, **how))


def find_same_word(words: Sequence[Word], others: Sequence[Word], number: int) -> int | None:
    """Find a word of one answer in another one: its number there, None if it is not.

    Of a word written several times, the first stands for the first, and so on; the last for those beyond.

    Args:
        words: Of the answer in which it is word `number`.
        others: Of the other answer.
        number: 0-based.
    """
    asked = words[number].text.lower()
    before = sum(word.text.lower() == asked for word in words[:number])
    found = [index for index, word in enumerate(others) if word.text.lower() == asked]
    return found[min(before, len(found) - 1)] if found else None


def size_of(trace: Trace) -> int:
    """Return the bytes that a trace takes, near enough: its tensors and its pictures."""
    tensors = (trace.image_attention, trace.gaze, *trace.findings.values())
    pictures = (len(picture.getbands()) * picture.width * picture.height for picture in trace.pictures)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + sum(pictures)


def _key(image: Image.Image, prompt: str, strategy: str, settings: dict[str, Any]) -> tuple[Any, ...]:
    seen = hashlib.sha256(image.tobytes()).hexdigest()
    return seen, image.size, prompt, strategy, tuple(sorted(settings.items()))
