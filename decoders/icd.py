"""Instruction contrastive decoding (ICD).

Paper     Wang et al., Findings of ACL 2024, arXiv:2403.18715; p1k0pan/ICD.
Idea      A model that is told to see badly hallucinates more; score each next token also after such an instruction,
          and subtract.
Formula   s = (1 + alpha) z - alpha z', kept where z >= max z + log beta, z' the logits with the picture and the
          instruction in the prompt
Defaults  alpha 1, beta 0.1: those of the authors' scripts. The instruction's words are our own.
Cost      2 rows per token instead of 1, in one pass; one more prefill, longer by the instruction.
Compared  text: released code five prefixes in turn, three that disturb and two that help; ours our own (text)
          place: released code, LLaVA: instead of the system text, in a template of its own; InstructBLIP:
            before the question, for its Q-Former too; another code base: after the picture; ours,
            LLaVA-1.5: the system message of its own template; other models: before the question
          alpha: scripts 1; released code where the argument is missing 0.5 (with beta 0.1); ours 1
          baseline: released code draws at temperature 1, without the cut-off
Differs   Works with greedy, sampling and beams. An instruction in the system message replaces one that the prompt has.
          Before the question means before the last message's first text, which in a prompt of picture and question
          follows the picture. The prompt is written again with the instruction: inputs that another processor made
          are refused, as their messages are not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mmhall.adapters import Adapter, Conversation, Inputs, Request
from mmhall.errors import ModelError, PromptError
from mmhall.options import by_model, option
from mmhall.strategies import ContrastStrategy, neutral_text, twin_option

INSTRUCTION = (
    "You see the picture as if through thick fog. You mix up what is in it and guess at things that may not be there."
)
PLACES = ("question", "system", "image")


def is_text(text: str) -> bool:
    """Whether a text has words and is valid Unicode."""
    return bool(text.strip()) and text.encode(errors="ignore").decode() == text


@dataclass(frozen=True)
class ICD(ContrastStrategy):
    """Contrast with the same prompt after an instruction to see badly.

    Attributes:
        alpha: Contrast strength, >= 0; 0 keeps the plain scores.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        text: The instruction.
        place: Where it stands: before the "question", in the "system" message, or after the "image".
        twin: 0: the strategy; a larger number: the seed of a random twin (the instruction is a neutral text with as
            many tokens).
    """

    name: ClassVar[str] = "icd"
    published: ClassVar = {
        ("llava", 32): {"alpha": 1.0, "place": "system"},
        ("llava", 40): {"alpha": 1.0, "place": "system"},
    }

    text: str = option(INSTRUCTION, holds=is_text, expected="a text of at least one word")
    place: str = by_model("question", choices=PLACES)
    twin: int = twin_option()

    def variants(self, adapter: Adapter, inputs: Inputs) -> list[dict[str, Tensor]]:
        """Return the prompts with the instruction.

        Raises:
            ModelError: The inputs come from another processor.
            OptionError: The chat template has no system message.
        """
        return self._with_text(adapter, inputs, self.text)

    def twin_variants(self, adapter: Adapter, inputs: Inputs) -> list[dict[str, Tensor]]:
        """Return the prompts with a neutral text instead, of as many tokens."""
        return self._with_text(adapter, inputs, neutral_text(adapter.tokenizer, self.text, self.twin))

    def _with_text(self, adapter: Adapter, inputs: Inputs, text: str) -> list[dict[str, Tensor]]:
        expected = '"question" or "image" for this model, whose chat format has no system message'
        self.check("place", self.place != "system" or has_system_message(adapter), expected)
        return [adapter.with_conversations(inputs, lambda messages: messages.with_instruction(text, self.place))]


def has_system_message(adapter: Adapter) -> bool:
    """Whether the chat template of a model writes a system message before a picture and a question."""
    asked = Conversation.from_prompt("What is this?", 1).with_instruction("Look.", "system")
    try:
        adapter.render(Request(asked))
    except (ModelError, PromptError):
        return False
    return True
