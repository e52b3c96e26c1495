"""Rendering of messages with a chat template, with content as a list of parts or as a string."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from mmhall.adapters._messages import ROLES, Conversation, Turn
from mmhall.errors import ModelError

_HOW_TO_SET = "chat_template=... of mmhall.load, --chat-template, or processor.chat_template: a Jinja text"
_PRINTED_PARTS = re.compile(r"""['"]type['"]\s*:\s*['"](?:image|text)['"]""")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The chat template of one processor.

    Attributes:
        processor: Processor that applies the template and usually contains it.
        family: Model family, for messages.
        default: Source and text of the template for a processor without one; None: there is none.
        placeholder: Text that marks the place of a picture in a string; None: the family has no such text.
        faults: What templates do wrong, by template and messages: messages of one kind are tried once.
    """

    processor: Any
    family: str
    default: tuple[str, str] | None
    placeholder: str | None
    faults: dict[Hashable, str | None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def from_processor(self) -> bool:
        """Whether the processor contains the template."""
        return self.processor.chat_template is not None

    @property
    def description(self) -> str:
        """Description of the template: its source, and a digest of the processor's template."""
        if self.from_processor:
            return f"the processor's, sha256 {_digest(self.processor.chat_template)}"
        return "none: the processor has none" if self.default is None else f"{self.default[0]}: the processor has none"

    def write(self, conversation: Conversation) -> str:
        """Render a conversation, with every text and picture in its place.

        The content of a message is first passed as a list of parts. If the template fails on that, prints the list, or
        leaves out or moves a part, it is passed as a string with placeholders.

        Raises:
            ModelError: There is no template, or it renders the conversation in neither form.
        """
        if self.default is None and not self.from_processor:
            raise ModelError(
                f"{self.family}: its chat template cannot be used: the processor has none; set one with {_HOW_TO_SET}"
            )
        faults = []
        for strings in self._forms(conversation):
            try:
                fault, written = self._find_fault(conversation, strings), self._apply(conversation, strings)
            except Exception as error:  # a template is a program
                fault = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if fault is None:
                # earlier answers may be shortened: templates of reasoning models remove their thoughts
                required = (text for turn in conversation.turns if turn.role != "assistant" for text in turn.texts)
                if all(text.strip() in written for text in required):
                    return written
                fault = "it changes the texts it is given"
            faults.append(fault)
        if conversation.is_plain:
            raise ModelError(
                f"{self.family}: its chat template cannot be used: {faults[0]}; set another with {_HOW_TO_SET} that "
                "accepts content as a list of parts of type image and text"
            )
        raise ModelError(
            f"{self.family}: its chat template cannot render these messages: {faults[0]}; set another with "
            f"{_HOW_TO_SET}, or ask in a single message with its pictures first"
        )

    def _forms(self, conversation: Conversation) -> Iterator[frozenset[str]]:
        """Yield sets of roles whose messages are passed as strings, first the empty set."""
        roles = [role for role in ROLES if any(turn.role == role for turn in conversation.turns)]
        for chosen in product((False, True), repeat=len(roles)):
            strings = frozenset(role for role, is_string in zip(reversed(roles), chosen, strict=True) if is_string)
            marked = (None in turn.parts for turn in conversation.turns if turn.role in strings)
            if self.placeholder is not None or not any(marked):
                yield strings

    def _find_fault(self, conversation: Conversation, strings: frozenset[str]) -> str | None:
        """Return what the template does wrong with the parts of a conversation, or None.

        The template renders the same messages with unique test texts.
        """
        texts = [f"mmhall-{number}-text" for number in range(len(conversation.texts))]
        probe = conversation.with_texts(texts)
        tried = str(self.processor.chat_template), self.placeholder, probe, strings
        if tried not in self.faults:
            self.faults[tried] = self._try(probe, strings)
        return self.faults[tried]

    def _try(self, probe: Conversation, strings: frozenset[str]) -> str | None:
        """Return what the template does wrong with messages of unique texts, or None."""
        written = self._apply(probe, strings)
        if _PRINTED_PARTS.search(written):
            return "it prints the list of parts"
        for number, turn in enumerate(probe.turns, start=1):
            if not all(text in written for text in turn.texts):
                return "it leaves the prompt out" if probe.is_plain else f"it leaves message {number} ({turn.role}) out"
        bare = Conversation(tuple(replace(turn, parts=turn.texts or ("",)) for turn in probe.turns))
        if probe.pictures and written == self._apply(bare, strings):
            return "it leaves pictures out"
        if probe.is_plain:
            return None
        return self._find_wrong_order(probe, written) or self._find_ignored_role(probe, written, strings)

    def _find_wrong_order(self, probe: Conversation, written: str) -> str | None:
        """Return a fault if texts and pictures are in another order than in the conversation."""
        if probe.pictures and written.count(self.placeholder or "") != probe.pictures:
            mark = self.placeholder or "a known mark"
            return f"it does not write {mark} once for each picture, so that the places of pictures are unknown"
        marks = [*probe.texts, *([self.placeholder] if self.placeholder else [])]
        order = re.findall("|".join(map(re.escape, sorted(marks, key=len, reverse=True))), written)
        expected = [self.placeholder if part is None else part for turn in probe.turns for part in turn.parts]
        return None if order == expected else "it puts texts and pictures in another order than in the messages"

    def _find_ignored_role(self, probe: Conversation, written: str, strings: frozenset[str]) -> str | None:
        """Return a fault if a message of another role is rendered like a user message."""
        for role in {turn.role for turn in probe.turns} - {"user"}:
            turns = (replace(turn, role="user") if turn.role == role else turn for turn in probe.turns)
            try:
                same = written == self._apply(Conversation(tuple(turns)), strings)
            except Exception:  # the template distinguishes the roles
                same = False
            if same:
                return f"it writes the message of the {role} as if it were the user's"
        return None

    def _apply(self, conversation: Conversation, strings: frozenset[str]) -> str:
        """Apply the template, with the messages of some roles as strings."""
        messages = [
            {"role": turn.role, "content": self._string(turn) if turn.role in strings else _parts(turn)}
            for turn in conversation.turns
        ]
        default = None if self.default is None or self.from_processor else self.default[1]
        written: str = self.processor.apply_chat_template(messages, add_generation_prompt=True, chat_template=default)
        return written

    def _string(self, turn: Turn) -> str:
        """Return the content of a message as a string."""
        return "".join(f"{self.placeholder}\n" if part is None else part for part in turn.parts)


def _parts(turn: Turn) -> list[dict[str, str]]:
    """Return the content of a message as a list of parts."""
    return [{"type": "image"} if part is None else {"type": "text", "text": part} for part in turn.parts]


def _digest(template: Any) -> str:
    """Return a short digest of a template: one text, or several texts by name."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]
