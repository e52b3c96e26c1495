"""The request of a command: a picture and a prompt, or a file of messages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mmhall.generation import Images, Prompt

MessagesFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSON list of messages to ask instead of a prompt; its picture paths are relative to the file.",
    ),
]


def read_request(image: Path | None, prompt: str | None, messages: Path | None) -> tuple[Images, Prompt]:
    """Open the pictures and read the messages, before a model is loaded.

    Args:
        image: Picture file; with messages, fills an image part without a picture.
        prompt: The text.
        messages: File of messages.

    Returns:
        Pictures and prompt as `LVLM.generate` takes them.

    Raises:
        PromptError: Picture, prompt or messages are missing, given twice, or unusable.
        DataError: The file cannot be read.
        ImageError: A picture cannot be opened.
    """
    from mmhall.adapters import read_messages
    from mmhall.errors import PromptError
    from mmhall.generation import fill_pictures
    from mmhall.images import open_image

    if messages is None:
        if image is None or prompt is None:
            missing = "a picture" if image is None else "a question"
            raise PromptError(f"{missing} is missing; give a picture file and what to ask, or --messages FILE")
        return open_image(image), prompt
    if prompt is not None:
        raise PromptError(f"{messages} holds what is asked, and a prompt is given too; leave one of them out")
    data = _read_list(messages)
    try:
        conversation, sources = read_messages(data)
        sources = [messages.parent / source if isinstance(source, str) else source for source in sources]
        pictures = fill_pictures(sources, [] if image is None else [image])
    except PromptError as error:
        raise PromptError(f"{messages}: {error}") from error
    return list(map(open_image, pictures)), conversation


def _read_list(file: Path) -> list[Any]:
    """Read a JSON list."""
    from mmhall.benchmarks.data.reading import read_json
    from mmhall.errors import DataError

    expected = 'a JSON list of messages such as {"role": "user", "content": "What is this?"}'
    data = read_json(file, expected)
    if not isinstance(data, list):
        raise DataError(f"{file}: holds no list; expected {expected}")
    return data
