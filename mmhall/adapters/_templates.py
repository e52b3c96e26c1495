"""Write messages with a chat template, whichever form of content the template takes: a list of parts, or a string."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from mmhall.adapters._messages import ROLES, Conversation, Turn
from mmhall.errors import ModelError

_WAY = "chat_template=... of mmhall.load, --chat-template, or processor.chat_template: a Jinja text"
_PRINTED_PARTS = re.compile(r"""['"]type['"]\s*:\s*['"](?:image|text)['"]""")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The chat template of one processor.

    Attributes:
        processor: What applies it, and mostly brings it.
        family: Of the model, for messages.
        default: Whose template stands in where the processor has none, and its text; None: nobody's.
        placeholder: What a string says where a picture belongs; None: the family has no such text.
    """

    processor: Any
    family: str
    default: tuple[str, str] | None
    placeholder: str | None

    @property
    def own(self) -> bool:
        """Whether the processor brings it."""
        return self.processor.chat_template is not None

    @property
    def told(self) -> str:
        """Say which template it is."""
        if self.own:
            return f"the processor's, sha256 {_digest(self.processor.chat_template)}"
        return "none: the processor has none" if self.default is None else f"{self.default[0]}: the processor has none"

    def write(self, conversation: Conversation) -> str:
        """Write a conversation, each text and picture where it stands.

        A message is given as a list of parts; where the template fails on that, prints it, leaves something out or
        moves it, as a string with the placeholder in it.

        Raises:
            ModelError: There is no template, or it writes the conversation in neither form.
        """
        if self.default is None and not self.own:
            raise ModelError(
                f"{self.family}: its chat template cannot be used: the processor has none; give one with {_WAY}"
            )
        faults = []
        for strings in self._forms(conversation):
            try:
                fault, written = self._fault(conversation, strings), self._applied(conversation, strings)
            except Exception as error:  # a template is a program of its own
                fault = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if fault is None:
                # earlier answers may be cut: templates of models that think take their thoughts out
                given = (text for turn in conversation.turns if turn.role != "assistant" for text in turn.texts)
                if all(text.strip() in written for text in given):
                    return written
                fault = "it changes the texts it is given"
            faults.append(fault)
        if conversation.is_plain:
            raise ModelError(
                f"{self.family}: its chat template cannot be used: {faults[0]}; give another with {_WAY} that writes "
                "content as a list of parts of type image and text"
            )
        raise ModelError(
            f"{self.family}: its chat template cannot write these messages: {faults[0]}; give another with {_WAY}, or "
            "ask in a single message with its pictures first"
        )

    def _forms(self, conversation: Conversation) -> Iterator[frozenset[str]]:
        """Yield the roles whose messages are given as strings: none first, later those of more roles."""
        roles = [role for role in ROLES if any(turn.role == role for turn in conversation.turns)]
        for chosen in product((False, True), repeat=len(roles)):
            strings = frozenset(role for role, is_string in zip(reversed(roles), chosen, strict=True) if is_string)
            marked = (None in turn.parts for turn in conversation.turns if turn.role in strings)
            if self.placeholder is not None or not any(marked):
                yield strings

    def _fault(self, conversation: Conversation, strings: frozenset[str]) -> str | None:
        """Say what the template does to the parts of a conversation that it should not; None: nothing.

        It is asked to write the same messages with other texts, which occur nowhere else.
        """
        texts = [f"mmhall-{number}-text" for number in range(len(conversation.texts))]
        asked = conversation.with_texts(texts)
        written = self._applied(asked, strings)
        if _PRINTED_PARTS.search(written):
            return "it prints the list of parts"
        for number, turn in enumerate(asked.turns, start=1):
            if not all(text in written for text in turn.texts):
                return "it leaves the prompt out" if asked.is_plain else f"it leaves message {number} ({turn.role}) out"
        bare = Conversation(tuple(replace(turn, parts=turn.texts or ("",)) for turn in asked.turns))
        if asked.pictures and written == self._applied(bare, strings):
            return "it leaves pictures out"
        return (
            None
            if asked.is_plain
            else self._moved(asked, written) or self._taken_for_the_users(asked, written, strings)
        )

    def _moved(self, asked: Conversation, written: str) -> str | None:
        """Say whether texts and pictures are in another order than in the conversation."""
        if asked.pictures and written.count(self.placeholder or "") != asked.pictures:
            mark = self.placeholder or "a known mark"
            return f"it does not write {mark} once for each picture, so that nobody can tell their places"
        marks = [*asked.texts, *([self.placeholder] if self.placeholder else [])]
        found = re.findall("|".join(map(re.escape, sorted(marks, key=len, reverse=True))), written)
        wanted = [self.placeholder if part is None else part for turn in asked.turns for part in turn.parts]
        return None if found == wanted else "it puts texts and pictures in another order than the messages have them"

    def _taken_for_the_users(self, asked: Conversation, written: str, strings: frozenset[str]) -> str | None:
        """Say whether a message of another role is written as one of the user's would be."""
        for role in {turn.role for turn in asked.turns} - {"user"}:
            turns = (replace(turn, role="user") if turn.role == role else turn for turn in asked.turns)
            try:
                same = written == self._applied(Conversation(tuple(turns)), strings)
            except Exception:  # it does heed the roles
                same = False
            if same:
                return f"it writes the message of the {role} as if it were the user's"
        return None

    def _applied(self, conversation: Conversation, strings: frozenset[str]) -> str:
        """Apply the template, the messages of some roles given as strings."""
        messages = [
            {"role": turn.role, "content": self._string(turn) if turn.role in strings else _parts(turn)}
            for turn in conversation.turns
        ]
        default = None if self.default is None or self.own else self.default[1]
        written: str = self.processor.apply_chat_template(messages, add_generation_prompt=True, chat_template=default)
        return written

    def _string(self, turn: Turn) -> str:
        """Write a message as a string."""
        return "".join(f"{self.placeholder}\n" if part is None else part for part in turn.parts)


def _parts(turn: Turn) -> list[dict[str, str]]:
    """Write a message as a list of parts."""
    return [{"type": "image"} if part is None else {"type": "text", "text": part} for part in turn.parts]


def _digest(template: Any) -> str:
    """Return a short digest of a template: a text, or several by name."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]
