"""Trace cache: traces of the columns of comparisons, and the heat maps drawn from them.

A trace decodes an answer again. Its key is what was asked, not who asked, so that visitors share traces; when the cache
is full, the trace that was used least recently is dropped.
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
    """Traces of one model, by image, prompt, strategy and settings."""

    def __init__(self, lvlm: LVLM, room: int = _ROOM) -> None:
        """Create an empty cache.

        Args:
            lvlm: The model.
            room: Maximum size in bytes; the latest trace is kept whatever its size.
        """
        self._lvlm, self._room, self._lock = lvlm, room, Lock()
        self._entries: OrderedDict[Any, Trace] = OrderedDict()

    def lookup(self, image: Image.Image, prompt: str, strategy: str, settings: dict[str, Any]) -> Trace | None:
        """Return a trace if it is in the cache."""
        return self._get(_key(image, prompt, strategy, settings))

    def get_or_trace(self, image: Image.Image, prompt: str, strategy: str, settings: dict[str, Any]) -> Trace:
        """Return a trace from the cache, or trace the answer and keep the trace.

        Raises:
            MmhallError: As `LVLM.trace`; also when memory runs out.
        """
        key = _key(image, prompt, strategy, settings)
        cached = self._get(key)
        if cached is not None:
            return cached
        with as_model_errors():
            trace = self._lvlm.trace(image, prompt, strategy, **settings)
        with self._lock:
            self._entries[key] = trace
            while len(self._entries) > 1 and sum(map(size_of, self._entries.values())) > self._room:
                self._entries.popitem(last=False)
        return trace

    def _get(self, key: Any) -> Trace | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)


@dataclass(frozen=True, slots=True)
class WordAttention:
    """Attention of one column while it wrote a word.

    Attributes:
        word: The word; None: the column did not write it.
        share: Fraction of the attention that falls on the picture, mean over the chosen layers and heads.
        picture: The picture, under a heat map of that attention if the word was written.
    """

    word: Word | None
    share: float | None
    picture: Image.Image


def word_attention(
    trace: Trace, number: int | None, layers: Sequence[int] = (), heads: Sequence[int] = ()
) -> WordAttention:
    """Compute and draw the attention to the picture while a word was written.

    Args:
        trace: Trace of the column.
        number: 0-based index among the words; None: the column did not write the word.
        layers: Decoder layers to average over; empty: all.
        heads: Heads to average over; empty: all.

    Raises:
        OptionError: A layer or head does not exist.
    """
    if number is None or not 0 <= number < len(trace.words):
        return WordAttention(None, None, trace.pictures[0])
    word = trace.words[number]
    reduction: dict[str, Any] = {"layers": list(layers) or None, "heads": list(heads) or None}
    share = float(trace.token_attention(word.tokens, **reduction).sum())
    return WordAttention(word, share, trace.overlay(word.tokens, **reduction))


def find_same_word(words: Sequence[Word], others: Sequence[Word], number: int) -> int | None:
    """Find a word of one answer in another answer; returns its 0-based index there, or None.

    The first occurrence of a word matches the first occurrence in the other answer, the second one the second, and so
    on; further occurrences match the last one.

    Args:
        words: Words of the first answer.
        others: Words of the other answer.
        number: 0-based index of the word in `words`.
    """
    text = words[number].text.lower()
    before = sum(word.text.lower() == text for word in words[:number])
    matches = [index for index, word in enumerate(others) if word.text.lower() == text]
    return matches[min(before, len(matches) - 1)] if matches else None


def size_of(trace: Trace) -> int:
    """Return the approximate size of a trace in bytes: its tensors and its pictures."""
    tensors = (trace.image_attention, trace.gaze, *trace.findings.values())
    pictures = (len(picture.getbands()) * picture.width * picture.height for picture in trace.pictures)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + sum(pictures)


def _key(image: Image.Image, prompt: str, strategy: str, settings: dict[str, Any]) -> tuple[Any, ...]:
    digest = hashlib.sha256(image.tobytes()).hexdigest()
    return digest, image.size, prompt, strategy, tuple(sorted(settings.items()))
