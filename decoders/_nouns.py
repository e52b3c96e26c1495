"""The object nouns of a text, and their boxes in the pictures of a request."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from mmhall.detection import Box, Detector
from mmhall.objects.plurals import plural
from mmhall.strategies import twin_generator
from mmhall.words import Word, final_word

if TYPE_CHECKING:
    from mmhall.decoders.halc import HALC

MOST_BOXES = 3
CENTRE = Box(0.2, 0.2, 0.8, 0.8)  # of a noun that is not detected


@dataclass(frozen=True, slots=True)
class Noun:
    """An object noun at the end of a text.

    Attributes:
        written: The noun as written, in lower case.
        start: Index of its first character in the text.
        picture: 0-based index of its picture.
        box: Its box there.
        detected: Whether the detector found the box.
    """

    written: str
    start: int
    picture: int
    box: Box
    detected: bool = True


class ObjectBoxes:
    """Finds the nouns of texts, and their boxes in the pictures of one request."""

    def __init__(self, options: HALC, detector: Detector, images: Sequence[Image.Image]) -> None:
        """Prepare the vocabulary; the detector is asked once for each word."""
        self._options, self._detector, self._images = options, detector, images
        self._nouns = {form: word for word in options.words for form in (plural(word), word)}
        self._found: dict[str, list[tuple[int, Box]]] = {}

    def locate(self, written: str, position: int) -> Noun | None:
        """Return the noun that a text ends with, if it is to be looked at again.

        Args:
            written: The text.
            position: Its number of tokens, which seeds draws.
        """
        options, (form, phrase) = self._options, self._final_noun(written)
        if not phrase or {form, phrase} & {*options.exempt}:
            return None
        if options.skip and random.Random(f"{options.seed} {position} {phrase}").random() < options.skip:
            return None
        start, found = len(written) - len(form), self._find(phrase)
        if len(found) > MOST_BOXES or not (found or options.words):
            return None
        if not found:
            return Noun(form, start, 0, CENTRE, detected=False)
        picture, box = min(found, key=lambda one: one[1].area)
        if options.twin:
            box = random_box(box, options.twin, f"{phrase} {position}")
        return Noun(form, start, picture, box)

    def _final_noun(self, written: str) -> tuple[str, str]:
        """Return the noun that a text ends with, as written, and as the detector is asked for it; "": none."""
        if not self._options.words:
            word = final_word(written)
            return (word.lower(), word.lower() if Word(word, ()).is_content else "")
        lowered = written.lower()
        ending = (form for form in self._nouns if lowered.endswith(form))
        whole = [form for form in ending if not lowered[: -len(form)][-1:].isalnum()]
        form = max(whole, key=len, default="")
        return form, self._nouns.get(form, "")

    def _find(self, phrase: str) -> list[tuple[int, Box]]:
        if phrase not in self._found:
            self._found[phrase] = [
                (number, box) for number, image in enumerate(self._images) for box in self._detector.find(image, phrase)
            ]
        return self._found[phrase]


def random_box(box: Box, twin: int, what: str) -> Box:
    """Return a box of the same size at a random place within the picture.

    Args:
        box: The box.
        twin: The seed.
        what: A name of the object.
    """
    across, down = torch.rand(2, generator=twin_generator(twin, what), dtype=torch.float64).tolist()
    left, top = across * (1 - box.width), down * (1 - box.height)
    return Box(left, top, left + box.width, top + box.height)
