"""Build requests from a caller's pictures and prompts."""

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
    """Build a request from each pair of picture and prompt; each picture is opened once.

    Raises:
        PromptError: An item is no such pair, or as in `make_request`.
        ImageError: A picture cannot be opened.
    """
    pairs = list(pairs)
    for pair in pairs:
        check_pair(pair)
    opened: dict[Any, Image.Image] = {}

    def once(image: ImageLike) -> Image.Image:
        key = str(image) if isinstance(image, str | Path) else id(image)
        if key not in opened:
            opened[key] = open_image(image)
        return opened[key]

    return [make_request(images, prompt, once) for images, prompt in pairs]


def check_pair(pair: object) -> None:
    """Check that something is a pair of picture and prompt.

    Raises:
        PromptError: It is not.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise PromptError(f"a batch is made of pairs (picture, prompt), got {pair!r}")


def make_request(images: Images, prompt: Prompt, opening: Callable[[ImageLike], Image.Image] = open_image) -> Request:
    """Build a request from pictures and a prompt.

    Args:
        images: Pictures before a text prompt; in messages, pictures of the parts of type image that bring none.
        prompt: The user's text, or messages; see `read_messages`.
        opening: Opens a picture.

    Raises:
        PromptError: The prompt is unusable, or there are more or fewer pictures than places for them.
        ImageError: A picture cannot be opened.
    """
    pictures = _as_list(images)
    if isinstance(prompt, str):
        check_text("a prompt", prompt)
        return Request(prompt, tuple(map(opening, pictures)))
    if isinstance(prompt, Conversation):
        return Request(prompt, tuple(map(opening, fill_pictures([None] * prompt.pictures, pictures))))
    conversation, sources = read_messages(prompt)
    return Request(conversation, tuple(map(opening, fill_pictures(sources, pictures))))


def _as_list(images: Images) -> list[ImageLike]:
    """Return pictures as a list; values of other types are refused when they are opened."""
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]


def fill_pictures(sources: Sequence[ImageLike | None], images: Sequence[ImageLike]) -> list[ImageLike]:
    """Fill the places of a conversation that bring no picture with pictures.

    Args:
        sources: The places, as `read_messages` returns them; None: no picture.
        images: Pictures in order.

    Raises:
        PromptError: There are more or fewer pictures than empty places.
    """
    places = sum(source is None for source in sources)
    if places != len(images):
        raise PromptError(
            f"the messages leave {places} of their pictures to the image argument, which gives {len(images)}; give as "
            "many, or let each part of type image bring its own as path"
        )
    left = iter(images)
    return [next(left) if source is None else source for source in sources]
