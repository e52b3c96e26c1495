"""Conversations with pictures, and parsing of messages in the format of transformers' chat templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile
from typing import Any

from PIL import Image

from mmhall.errors import PromptError
from mmhall.images import ImageLike

Messages = Sequence[Mapping[str, Any]]

ROLES = ("system", "user", "assistant")
_ADDRESSES = ("url", "image_url")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        role: "system", "user" or "assistant".
        parts: Content in order: a text, or None in the place of a picture.
    """

    role: str
    parts: tuple[str | None, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts of the message."""
        return tuple(part for part in self.parts if part is not None)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages of a conversation; the last message is the user's and is to be answered.

    Attributes:
        turns: The messages in order.
    """

    turns: tuple[Turn, ...]

    @classmethod
    def from_prompt(cls, prompt: str, pictures: int) -> Conversation:
        """Return a conversation of a single user message: pictures, then a text."""
        return cls((Turn("user", (*[None] * pictures, prompt)),))

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts of all messages."""
        return tuple(text for turn in self.turns for text in turn.texts)

    @property
    def pictures(self) -> int:
        """Number of pictures in all messages."""
        return sum(part is None for turn in self.turns for part in turn.parts)

    @property
    def is_plain(self) -> bool:
        """Whether the conversation is a single user message with all pictures before its texts."""
        if len(self.turns) > 1 or self.turns[0].role != "user":
            return False
        return None not in dropwhile(lambda part: part is None, self.turns[0].parts)

    @property
    def question(self) -> str:
        """Texts of the last message, joined."""
        return "".join(self.turns[-1].texts)

    def with_texts(self, texts: Sequence[str]) -> Conversation:
        """Return the same messages with other texts; their number must be the same."""
        remaining = iter(texts)
        turns = [
            replace(turn, parts=tuple(None if part is None else next(remaining) for part in turn.parts))
            for turn in self.turns
        ]
        return Conversation(tuple(turns))

    def __str__(self) -> str:
        """Return a readable text: the question if `is_plain`, otherwise one line for each message, pictures marked."""
        if self.is_plain:
            return self.question
        return "\n".join(
            f"{turn.role}: {' '.join('[picture]' if part is None else part.strip() for part in turn.parts)}"
            for turn in self.turns
        )


@dataclass(frozen=True)
class Request:
    """A prompt with its pictures.

    Attributes:
        prompt: The user's text, which follows the pictures, or a conversation with the same number of pictures.
        images: RGB pictures in the order of the prompt; empty for a prompt without pictures.
    """

    prompt: str | Conversation
    images: tuple[Image.Image, ...] = ()

    @property
    def conversation(self) -> Conversation:
        """The prompt as a conversation."""
        if isinstance(self.prompt, Conversation):
            return self.prompt
        return Conversation.from_prompt(self.prompt, len(self.images))


def edit_question(request: Request, edit: Callable[[str], str]) -> Request:
    """Return a request with another question: the last text of the last message is edited, all else stays.

    Args:
        request: The request.
        edit: Takes the text and returns another; "" where the last message has no text.
    """
    if isinstance(request.prompt, str):
        return replace(request, prompt=edit(request.prompt))
    *before, last = request.prompt.turns
    parts = list(last.parts)
    at = max((number for number, part in enumerate(parts) if part is not None), default=None)
    if at is None:
        parts.append(edit(""))
    else:
        parts[at] = edit(str(parts[at]))
    return replace(request, prompt=Conversation((*before, replace(last, parts=tuple(parts)))))


def only_text(request: Request, family: str) -> str:
    """Return the text of a single message with its pictures first, for a family without a chat format.

    Raises:
        PromptError: The request is another conversation.
    """
    if not request.conversation.is_plain:
        raise PromptError(f"{family} has no chat format; ask in a single user message, pictures before text")
    return request.conversation.question


def check_text(what: str, text: Any) -> None:
    """Check that a value is a string of valid Unicode.

    Raises:
        PromptError: It is not; the message begins with `what`.
    """
    if not isinstance(text, str):
        raise PromptError(f"{what} must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"{what} holds characters that are no valid Unicode, at position {error.start}") from error


def read_messages(messages: Messages) -> tuple[Conversation, list[ImageLike | None]]:
    """Parse messages in the format of transformers' chat templates.

    Args:
        messages: Mappings with "role" (system, user or assistant) and "content": a text, or a list of parts. A part is
            {"type": "text", "text": ...} or {"type": "image"}, which may have a picture as "image" or "path".

    Returns:
        The conversation, and the source of each of its pictures; None where the part has no picture.

    Raises:
        PromptError: The messages have another form, contain no text, or contain something unsupported, such as a URL.
    """
    if not isinstance(messages, list | tuple):
        raise PromptError(f"a prompt must be text or a list of messages, got {type(messages).__name__}")
    if not messages:
        raise PromptError("the list of messages is empty; give at least one user message")
    turns, sources = [], list[ImageLike | None]()
    for number, message in enumerate(messages, start=1):
        turn, own_sources = _read_turn(f"message {number}", message)
        turns.append(turn)
        sources += own_sources
    if turns[-1].role != "user":
        raise PromptError(
            f"message {len(turns)}, the last, must be the user's, which is to be answered, got role {turns[-1].role!r}"
        )
    conversation = Conversation(tuple(turns))
    if not any(map(str.strip, conversation.texts)):
        raise PromptError("the prompt is empty: no message has a text; write a question or an instruction")
    return conversation, sources


def _read_turn(where: str, message: Any) -> tuple[Turn, list[ImageLike | None]]:
    """Parse a message, and return it with the sources of its pictures."""
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} must be a mapping with role and content, got {type(message).__name__}")
    _check_keys(where, message, ("role", "content"))
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise PromptError(f"{where}: role must be one of {', '.join(ROLES)}, got {role!r}")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        raise PromptError(f"{where}: content must be text or a list of parts, got {type(content).__name__}")
    pairs = [_read_part(f"{where}, part {number}", part) for number, part in enumerate(content, start=1)]
    parts = tuple(text for text, _ in pairs if text != "")
    if not any(part is None or part.strip() for part in parts):
        raise PromptError(f"{where} ({role}) is empty; give it a text or a picture, or leave it out")
    return Turn(role, parts), [source for text, source in pairs if text is None]


def _read_part(where: str, part: Any) -> tuple[str | None, ImageLike | None]:
    """Parse a part: return its text and None, or None and the source of its picture."""
    if not isinstance(part, Mapping):
        raise PromptError(f"{where} must be a mapping with a type, got {type(part).__name__}")
    address = next((key for key in _ADDRESSES if part.get(key) is not None or part.get("type") == key), None)
    if address is not None:
        raise PromptError(f"{where}: {address} is not read, as nothing is fetched; give the picture's file as path")
    kind = part.get("type")
    if kind == "text":
        _check_keys(where, part, ("type", "text"))
        check_text(f"{where}: its text", part.get("text"))
        return part["text"], None
    if kind != "image":
        raise PromptError(f"{where}: type must be text or image, got {kind!r}")
    _check_keys(where, part, ("type", "image", "path"))
    given = [part[key] for key in ("image", "path") if part.get(key) is not None]
    if len(given) > 1:
        raise PromptError(f"{where} has its picture twice; give image or path")
    source = given[0] if given else None
    if isinstance(source, str) and _ADDRESS.match(source):
        raise PromptError(f"{where}: {source:.60} is not fetched; give the path of a file")
    return None, source


def _check_keys(where: str, mapping: Mapping[str, Any], known: Sequence[str]) -> None:
    """Check that a mapping has no unknown keys, except with value None, as some data sets have."""
    others: Iterator[str] = (str(key) for key, value in mapping.items() if key not in known and value is not None)
    name = next(others, None)
    if name is not None:
        raise PromptError(f"{where} has {name!r}, which is not read; only {', '.join(known)} are")
