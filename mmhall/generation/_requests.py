"""Make requests of what a caller gives: pictures as files or opened, and a text or messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mmhall.adapters import Conversation, Messages, Request, check_text, read_messages
from mmhall.errors import PromptError
from mmhall.images import ImageLike, open_image

Images = ImageLike | Sequence[ImageLike] | None
Prompt = str | Messages | Conversation


def make_requests(pairs: Sequence[tuple[Images, Prompt]]) -> list[Request]:
    """Make a request of each pair of picture and prompt; what several of them show is opened once.

    Raises:
        PromptError: Something is no such pair, or as in `make_request`.
        ImageError: A picture cannot be opened.
    """
    pairs = list(pairs)
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise PromptError(f"a batch is made of pairs (picture, prompt), got {pair!r}")
    opened: dict[Any, Image.Image] = {}

    def once(image: ImageLike) -> Image.Image:
        key = str(image) if isinstance(image, str | Path) else id(image)
        if key not in opened:
            opened[key] = open_image(image)
        return opened[key]

    return [make_request(images, prompt, once) for images, prompt in pairs]


def make_request(images: Images, prompt: Prompt, opening: Callable[[ImageLike], Image.Image] = open_image) -> Request:
    """Make a request of pictures and a prompt.

    Args:
        images: Of a text, what the model sees before it; of messages, what stands where a part brings no picture.
        prompt: The user's text, or messages; see `read_messages`.
        opening: Opens a picture.

    Raises:
        PromptError: The prompt is unusable, or there are more or fewer pictures than places for them.
        ImageError: A picture cannot be opened.
    """
    given = _several(images)
    if isinstance(prompt, str):
        check_text("a prompt", prompt)
        return Request(prompt, tuple(map(opening, given)))
    if isinstance(prompt, Conversation):
        return Request(prompt, tuple(map(opening, fill_pictures([None] * prompt.pictures, given))))
    conversation, sources = read_messages(prompt)
    return Request(conversation, tuple(map(opening, fill_pictures(sources, given))))


def _several(images: Images) -> list[ImageLike]:
    """Return pictures as a list; what is no picture is refused where it is opened."""
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]


def fill_pictures(sources: Sequence[ImageLike | None], given: Sequence[ImageLike]) -> list[ImageLike]:
    """Put the pictures that were given where a message's part brings none.

    Args:
        sources: As `read_messages` returns them.
        given: Pictures in order.

    Raises:
        PromptError: There are more or fewer of them than places.
    """
    places = sum(source is None for source in sources)
    if places != len(given):
        raise PromptError(
            f"the messages leave {places} of their pictures to the image argument, which gives {len(given)}; give as "
            "many, or let each part of type image bring its own as path"
        )
    left = iter(given)
    return [next(left) if source is None else source for source in sources]
