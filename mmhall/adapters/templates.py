"""Write a request with a chat template, whichever form of content the template takes: a list of parts, or a string."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

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

    def write(self, prompt: str, pictures: int) -> str:
        """Write a user's message, its pictures first.

        A template that fails on a list of parts, prints it, or leaves the pictures out is given a string instead.

        Raises:
            ModelError: There is no template, or it takes neither form.
        """
        if self.default is None and not self.own:
            raise ModelError(
                f"{self.family}: its chat template cannot be used: the processor has none; give one with {_WAY}"
            )
        parts = [*[{"type": "image"}] * pictures, {"type": "text", "text": prompt}]
        reason = "it leaves pictures out" if pictures else "it leaves the prompt out"
        try:
            written = self._applied(parts)
            printed = len(_PRINTED_PARTS.findall(written)) > len(_PRINTED_PARTS.findall(prompt))
            if prompt.strip() in written and not printed and (not pictures or written != self._applied(parts[-1:])):
                return written
        except Exception as error:  # a template is a program of its own
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        as_string = self._as_string(prompt, pictures)
        if as_string is None:
            raise ModelError(
                f"{self.family}: its chat template cannot be used: {reason}; give another with {_WAY} that writes "
                "content as a list of parts of type image and text"
            )
        return as_string

    def _as_string(self, prompt: str, pictures: int) -> str | None:
        """Write a message whose content is a string; None where the template does not write it out."""
        if pictures and self.placeholder is None:
            return None
        content = f"{self.placeholder}\n" * pictures + prompt
        try:
            written = self._applied(content)
        except Exception:  # why it takes no list is the better reason
            return None
        return written if content.strip() in written else None

    def _applied(self, content: Any) -> str:
        message = [{"role": "user", "content": content}]
        default = None if self.default is None or self.own else self.default[1]
        written: str = self.processor.apply_chat_template(message, add_generation_prompt=True, chat_template=default)
        return written


def _digest(template: Any) -> str:
    """Return a short digest of a template: a text, or several by name."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:8]
