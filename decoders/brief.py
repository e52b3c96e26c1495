"""Prompt that asks for a short answer, a control of captions.

Paper     None of its own.
Idea      Ask the plain model to be brief. Short captions name fewer objects, right and wrong: a method that only makes
          captions shorter is no better than this control at the same recall.
Formula   the question, then the text
Defaults  The text is "Be brief."
Cost      A few tokens of prompt; answers are shorter where a model obeys.
Differs   With "Mention only what you are sure of." as `text` it is a prompt against hallucination. Prompts without a
          picture are not changed. A model that was not taught to follow instructions ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmhall.decoders._reworded import Reworded
from mmhall.options import option


@dataclass(frozen=True)
class Brief(Reworded):
    """Ask the plain model for a short answer.

    Attributes:
        text: The text that asks for it, appended to the question.
    """

    name: ClassVar[str] = "brief"

    text: str = option(
        "Be brief.",
        holds=lambda text: bool(text) and text == text.strip(),
        expected="a text without white space around it",
    )

    def is_reworded(self, question: str) -> bool:
        """Tell whether a question ends with the text."""
        return question.rstrip().endswith(self.text)

    def reword(self, question: str) -> str:
        """Return a question with the text behind it.

        >>> Brief().reword("Please describe this image in detail. "), Brief().reword("")
        ('Please describe this image in detail. Be brief.', 'Be brief.')
        """
        return f"{question.rstrip()} {self.text}".lstrip()
