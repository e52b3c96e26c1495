"""A conversation, with its pictures where they stand, and how it is read from messages as chat templates have them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
        parts: What it says, in order: a text, or None where a picture stands.
    """

    role: str
    parts: tuple[str | None, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Its texts."""
        return tuple(part for part in self.parts if part is not None)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages up to a user's, which is to be answered.

    Attributes:
        turns: The messages in order.
    """

    turns: tuple[Turn, ...]

    @classmethod
    def from_prompt(cls, prompt: str, pictures: int) -> Conversation:
        """Return a single message of the user's: pictures, then a text."""
        return cls((Turn("user", (*[None] * pictures, prompt)),))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of all messages."""
        return tuple(text for turn in self.turns for text in turn.texts)

    @property
    def pictures(self) -> int:
        """Number of pictures in all messages."""
        return sum(part is None for turn in self.turns for part in turn.parts)

    @property
    def is_plain(self) -> bool:
        """Whether it is a single message of the user's, every picture before its texts."""
        if len(self.turns) > 1 or self.turns[0].role != "user":
            return False
        return None not in dropwhile(lambda part: part is None, self.turns[0].parts)

    @property
    def question(self) -> str:
        """The texts of the last message in one."""
        return "".join(self.turns[-1].texts)

    def with_texts(self, texts: Sequence[str]) -> Conversation:
        """Return the same messages with other texts, as many as it has."""
        left = iter(texts)
        turns = [
            replace(turn, parts=tuple(None if part is None else next(left) for part in turn.parts))
            for turn in self.turns
        ]
        return Conversation(tuple(turns))

    def __str__(self) -> str:
        """Write it for people to read: the text where it is plain, else a line a message, its pictures marked."""
        if self.is_plain:
            return self.question
        return "\n".join(
            f"{turn.role}: {' '.join('[picture]' if part is None else part.strip() for part in turn.parts)}"
            for turn in self.turns
        )


@dataclass(frozen=True)
class Request:
    """One thing to answer.

    Attributes:
        prompt: The user's text, which follows the pictures, or a conversation with as many pictures as there are.
        images: RGB pictures, in the order the model sees them; none for a question without one.
    """

    prompt: str | Conversation
    images: tuple[Image.Image, ...] = ()

    @property
    def conversation(self) -> Conversation:
        """What is asked, as a conversation."""
        if isinstance(self.prompt, Conversation):
            return self.prompt
        return Conversation.from_prompt(self.prompt, len(self.images))


def only_text(request: Request, family: str) -> str:
    """Return the text of a single message that shows its pictures first, for a family without a chat format.

    Raises:
        PromptError: There is more than that.
    """
    if not request.conversation.is_plain:
        raise PromptError(f"{family} has no chat format; ask in a single message of the user's, pictures before text")
    return request.conversation.question


def check_text(what: str, text: Any) -> None:
    """Refuse what is no text, or no valid Unicode.

    Raises:
        PromptError: It is; the message begins with `what`.
    """
    if not isinstance(text, str):
        raise PromptError(f"{what} must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"{what} holds characters that are no valid Unicode, at position {error.start}") from error


def read_messages(given: Messages) -> tuple[Conversation, list[ImageLike | None]]:
    """Read messages as transformers' chat templates take them.

    Args:
        given: Mappings with "role" (system, user or assistant) and "content": a text, or a list of parts. A part is
            {"type": "text", "text": ...} or {"type": "image"}, which may bring its picture as "image" or "path".

    Returns:
        The conversation, and what each of its pictures is to be opened from; None: the part brings none.

    Raises:
        PromptError: They are of another shape, ask nothing, or hold something that is not read, such as an address.
    """
    if not isinstance(given, list | tuple):
        raise PromptError(f"a prompt must be text or a list of messages, got {type(given).__name__}")
    if not given:
        raise PromptError("the list of messages is empty; give at least one message of the user's")
    turns, sources = [], list[ImageLike | None]()
    for number, message in enumerate(given, start=1):
        turn, own = _turn(f"message {number}", message)
        turns.append(turn)
        sources += own
    if turns[-1].role != "user":
        raise PromptError(
            f"message {len(turns)}, the last, must be the user's, which is to be answered, got role {turns[-1].role!r}"
        )
    read = Conversation(tuple(turns))
    if not any(map(str.strip, read.texts)):
        raise PromptError("the prompt is empty: no message has a text; write a question or an instruction")
    return read, sources


def _turn(where: str, message: Any) -> tuple[Turn, list[ImageLike | None]]:
    """Read a message, and what each of its pictures is opened from."""
    if not isinstance(message, Mapping):
        raise PromptError(f"{where} must be a mapping with role and content, got {type(message).__name__}")
    _refuse_others(where, message, ("role", "content"))
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise PromptError(f"{where}: role must be one of {', '.join(ROLES)}, got {role!r}")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple):
        raise PromptError(f"{where}: content must be text or a list of parts, got {type(content).__name__}")
    read = [_part(f"{where}, part {number}", part) for number, part in enumerate(content, start=1)]
    parts = tuple(text for text, _ in read if text != "")
    if not any(part is None or part.strip() for part in parts):
        raise PromptError(f"{where} ({role}) is empty; give it a text or a picture, or leave it out")
    return Turn(role, parts), [source for text, source in read if text is None]


def _part(where: str, part: Any) -> tuple[str | None, ImageLike | None]:
    """Read a part: its text and None, or None and what its picture is opened from."""
    if not isinstance(part, Mapping):
        raise PromptError(f"{where} must be a mapping with a type, got {type(part).__name__}")
    address = next((key for key in _ADDRESSES if part.get(key) is not None or part.get("type") == key), None)
    if address is not None:
        raise PromptError(f"{where}: {address} is not read, as nothing is fetched; give the picture's file as path")
    kind = part.get("type")
    if kind == "text":
        _refuse_others(where, part, ("type", "text"))
        check_text(f"{where}: its text", part.get("text"))
        return part["text"], None
    if kind != "image":
        raise PromptError(f"{where}: type must be text or image, got {kind!r}")
    _refuse_others(where, part, ("type", "image", "path"))
    brought = [part[key] for key in ("image", "path") if part.get(key) is not None]
    if len(brought) > 1:
        raise PromptError(f"{where} brings its picture twice; give image or path")
    source = brought[0] if brought else None
    if isinstance(source, str) and _ADDRESS.match(source):
        raise PromptError(f"{where}: {source:.60} is not fetched; give the path of a file")
    return None, source


def _refuse_others(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse keys that nobody reads; data sets fill up theirs with null."""
    others: Iterator[str] = (str(key) for key, value in given.items() if key not in known and value is not None)
    name = next(others, None)
    if name is not None:
        raise PromptError(f"{where} has {name!r}, which is not read; only {', '.join(known)} are")
