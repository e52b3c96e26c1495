"""Prompt that asks for yes (or for no), a control of yes/no benchmarks.

Paper     None of its own; arXiv:2504.10020 compares contrasts with such a prompt.
Idea      Ask the plain model to answer yes whenever possible. Scores such as F1 may rise although the model tells
          present and absent objects apart no better: a gain that this control reaches, too, is one of the threshold.
Formula   the question without its suffix that asks for one word, then the text
Defaults  The text is "Answer with one word, whenever possible with yes." The suffixes are those of the benchmarks here.
Cost      A few tokens of prompt; pictures are processed twice.
Differs   The wording is our own; give another one as `text`. A question without such a suffix keeps all its words, and
          the text is appended. Prompts without a picture are not changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mmhall.decoders._reworded import Reworded
from mmhall.options import option

SUFFIXES = (
    "Answer the question using a single word or phrase.",
    "Please answer this question with one word.",
    "Please just answer yes or no.",
    "Please answer yes or no.",
)


@dataclass(frozen=True)
class YesPrompt(Reworded):
    """Ask the plain model to answer yes, or no, whenever possible.

    Attributes:
        answer: The answer to ask for: "yes" or "no".
        text: The text that asks for it; "": our own wording.
        suffixes: Suffixes of questions that the text replaces, without white space before them.
    """

    name: ClassVar[str] = "yes-prompt"

    answer: str = option("yes", choices=("yes", "no"))
    text: str = option("", holds=lambda text: text == text.strip(), expected="a text without white space around it")
    suffixes: tuple[str, ...] = option(
        SUFFIXES,
        holds=lambda suffixes: all(isinstance(suffix, str) and suffix.strip() for suffix in suffixes),
        expected="a tuple of texts",
    )

    @property
    def wording(self) -> str:
        """The text that is asked in the suffix's place."""
        return self.text or f"Answer with one word, whenever possible with {self.answer}."

    def is_reworded(self, question: str) -> bool:
        """Tell whether a question ends with the text."""
        return question.rstrip().endswith(self.wording)

    def reword(self, question: str) -> str:
        """Return a question with the text in the place of its suffix, after the same white space.

        >>> YesPrompt(text="Say yes.").reword("Is it? Please answer yes or no.")
        'Is it? Say yes.'
        """
        asked = question.rstrip()
        suffix = next((suffix for suffix in self.suffixes if asked.endswith(suffix)), "")
        before = asked[: len(asked) - len(suffix)]
        gap = before[len(before.rstrip()) :] or " "
        return f"{before.rstrip()}{gap}{self.wording}".lstrip()
