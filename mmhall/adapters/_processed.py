"""Pictures that an image processor has processed, kept for further prompts about them.

A processor reads prompts one by one, and each time processes their pictures. Inside `process_once` its image part looks
up pictures that it knows: the same objects, under the same options.

Only image processors of transformers look up pictures, as they compute the same each time; one whose code comes from a
repository or a caller may draw random numbers. Pictures that a processor copies first (Idefics2) are processed each
time. A picture must not be edited in place meanwhile.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from PIL import Image
from transformers import ProcessorMixin

_MODULE = "transformers."

Key = tuple[Any, ...]
Entry = tuple[Any, list["weakref.ref[Image.Image]"], Any]
"""The image processor, so that no other gets its id; the pictures; and what it has returned."""


class ProcessedPictures:
    """What image processors have returned for pictures, as long as the pictures are in use elsewhere."""

    def __init__(self) -> None:
        """Start without pictures."""
        self._known: dict[Key, Entry] = {}

    def __len__(self) -> int:
        """Number of calls of image processors that are kept."""
        return len(self._known)

    def process(self, image_processor: Any, images: Any, *args: Any, **options: Any) -> Any:
        """Return what `image_processor.preprocess` returns, in a container of its own.

        Args:
            image_processor: The image processor.
            images: A picture, or nested lists of pictures.
            *args: Further arguments.
            **options: Options.
        """
        pictures = list(_flat(images))
        if args or not all(isinstance(picture, Image.Image) for picture in pictures):
            return image_processor.preprocess(images, *args, **options)
        key = (id(image_processor), _places(images), repr(sorted(options.items())))
        known = self._known.get(key)
        if known is None or not all(ref() is picture for ref, picture in zip(known[1], pictures, strict=True)):
            forget = partial(_forget, weakref.ref(self), key)
            refs = [weakref.ref(picture, forget) for picture in pictures]
            known = self._known[key] = (image_processor, refs, image_processor.preprocess(images, **options))
        return copy.copy(known[2])  # processors take entries out of it

    def forget(self, key: Key) -> None:
        """Forget a call."""
        self._known.pop(key, None)


def _forget(store: weakref.ref[ProcessedPictures], key: Key, _: weakref.ref[Image.Image]) -> None:
    """Forget a call whose picture is in use no more; the store is not kept for that."""
    pictures = store()
    if pictures is not None:
        pictures.forget(key)


_pictures: ContextVar[ProcessedPictures | None] = ContextVar("mmhall_processed_pictures", default=None)


@contextmanager
def process_once(pictures: ProcessedPictures | None = None) -> Iterator[None]:
    """Process a picture once inside this context.

    Args:
        pictures: Where they are kept; None: where the context around this one keeps them, or until this one ends.
    """
    kept = _pictures.get() if pictures is None else pictures
    token = _pictures.set(ProcessedPictures() if kept is None else kept)
    try:
        yield
    finally:
        _pictures.reset(token)


def looks_up_pictures(processor: ProcessorMixin) -> ProcessorMixin:
    """Return a copy of a processor that looks up pictures inside `process_once`; outside, the processor itself."""
    pictures = _pictures.get()
    image_processor: Any = getattr(processor, "image_processor", None)
    if pictures is None or not type(image_processor).__module__.startswith(_MODULE):
        return processor
    copied, looking_up = copy.copy(processor), copy.copy(image_processor)
    looking_up.preprocess = partial(pictures.process, image_processor)  # which its `__call__` calls
    copied.image_processor = looking_up
    return copied


def _flat(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple):
        for each in images:
            yield from _flat(each)
    else:
        yield images


def _places(images: Any) -> Any:
    """Return nested pictures with the identity of each in its place."""
    return tuple(map(_places, images)) if isinstance(images, list | tuple) else id(images)
