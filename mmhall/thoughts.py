"""Marks that separate the thoughts of a reasoning model from its answer.

Thoughts   <think>...</think>, <thinking>, <thought>, <reason>, <reasoning>, <rationale>, <reflection>, <analysis> or
           <scratchpad>, also with a prefix (<seed:think>); [THINK], ◁think▷; <|begin_of_thought|>, <|START_THINKING|>
           and the like; the "analysis" channel before the "final" one; <|channel>thought...<channel|>;
           <unused94>thought...<unused95>.
Answers    <answer>...</answer>, <final_answer>, <conclusion>; <|begin_of_solution|>, <|begin_of_box|>,
           <|START_RESPONSE|>.
"""

from __future__ import annotations

import re

_NAME = (
    r"(?:\w+[:_])?(?:think|thinking|thoughts?|reason|reasoning|rationale|reflection|analysis|scratchpad)(?:_process)?"
)
_BARRED = r"_(?:of_)?(?:thought|think|thinking|reasoning)\|>"
OPEN = re.compile(
    rf"<\s*{_NAME}(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|(?:begin|start){_BARRED}|<\|channel\|>analysis<\|message\|>"
    r"|<\|channel>(?:thought)?|<unused94>(?:thought)?",
    re.IGNORECASE,
)
CLOSE = re.compile(
    rf"<\s*/\s*{_NAME}\s*>|\[/THINK\]|◁/think▷|<\|end{_BARRED}|<\|channel\|>final<\|message\|>|<channel\|>|<unused95>",
    re.IGNORECASE,
)
_ANSWER = r"(?:answer|final_answer|conclusion)"
_BARRED_ANSWER = r"_(?:of_)?(?:solution|box|response)\|>"
ANSWER_OPEN = re.compile(rf"<{_ANSWER}>|<\|(?:begin|start){_BARRED_ANSWER}", re.IGNORECASE)
ANSWER_CLOSE = re.compile(rf"</{_ANSWER}>|<\|end{_BARRED_ANSWER}", re.IGNORECASE)
_CHANNEL = ("<|channel|>", "<|message|>")  # with a word between them, these two tokens are one mark


def is_thought_mark(token: str) -> bool:
    """Whether a special token marks thoughts or an answer, or is a part of such a mark.

    >>> is_thought_mark("</think>"), is_thought_mark("<|channel|>"), is_thought_mark("<|im_end|>")
    (True, True, False)
    """
    return token in _CHANNEL or any(kind.fullmatch(token) for kind in (OPEN, CLOSE, ANSWER_OPEN, ANSWER_CLOSE))
