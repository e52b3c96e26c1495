r"""Removal of a reasoning model's thoughts from its answer, before any rule reads it.

Marks    Those of `mmhall.thoughts`, such as <think>...</think>. Templates that put the opening mark into the prompt
         leave only the closing mark in the answer: the text before it is thought. A run puts the opening mark before an
         answer without the closing mark, so that thoughts cut off by the length limit differ from an answer.
Answer   The remaining text; if it has <answer>...</answer> or another answer mark, or a \boxed{...} that starts with
         yes or no, only the content of the last of these. Any other box, such as that of a count, is text.
Rule     All rules read the answer without its thoughts, also those of other authors: their scripts are older than such
         models, and would read the thoughts. An answer without such marks is read unchanged.
         Thoughts without an end, or without text after them, leave no answer: every rule counts it as unparsed.
"""

from __future__ import annotations

import re

from mmhall.thoughts import ANSWER_CLOSE, ANSWER_OPEN, CLOSE, OPEN

_BOXED = re.compile(
    r"\\boxed\s*\{(?=(?:\\[a-z]+|[^\w\\}])*(?:yes|no)\b)((?:[^{}]|\{[^{}]*\})*)\}",  # LaTeX commands before the word
    re.IGNORECASE,
)


def remove_thoughts(text: str) -> str:
    r"""Return an answer without its thoughts; an answer without marks is unchanged.

    >>> remove_thoughts("<think>A cat? No.</think>\nYes"), remove_thoughts("A dog, so <answer>No</answer>")
    ('Yes', 'No')
    >>> remove_thoughts("<think>Yes, but")
    ''
    """
    blanked = blank_thoughts(text)
    return blanked if blanked == text else blanked.strip()


def blank_thoughts(text: str) -> str:
    """Return an answer with blanks for its thoughts and marks; other characters keep their positions.

    >>> blank_thoughts("<think>A cat?</think> A dog.")
    '                      A dog.'
    """
    blanked = _without_thoughts(text)
    while (opening := _last_match(ANSWER_OPEN, blanked)) is not None:
        closing = ANSWER_CLOSE.search(blanked, opening.end())
        blanked = _keep_only(blanked, opening.end(), closing.start() if closing else len(blanked))
    boxed = _last_match(_BOXED, blanked)
    blanked = _keep_only(blanked, *boxed.span(1)) if boxed else blanked
    return ANSWER_CLOSE.sub(lambda mark: " " * len(mark[0]), blanked)


def is_thoughts_only(text: str) -> bool:
    """Tell whether an answer holds thoughts only: they have no end, or no text follows them.

    >>> is_thoughts_only("<think>No, wait"), is_thoughts_only("<think>Hm.</think>"), is_thoughts_only("")
    (True, True, False)
    """
    return bool(text.strip()) and not remove_thoughts(text)


def restore_opening_mark(prompt: str, answer: str) -> str:
    r"""Add the opening mark of thoughts, if a prompt ends with it, to an answer without the closing mark.

    >>> restore_opening_mark("USER: Is it? ASSISTANT: <think>\n", "Yes, let me")
    '<think>Yes, let me'
    >>> restore_opening_mark("<think>\n", "Hm.</think>Yes")
    'Hm.</think>Yes'
    """
    opening = re.search(rf"(?:{OPEN.pattern})\s*$", prompt, re.IGNORECASE)
    return answer if opening is None or CLOSE.search(answer) else opening[0].strip() + answer


def _without_thoughts(text: str) -> str:
    """Blank out thoughts from mark to mark, or to the end of the text, except an answer marked at the end."""
    while (closing := CLOSE.search(text)) is not None:
        opening = OPEN.search(text, 0, closing.start())
        text = _blank(text, opening.start() if opening else 0, closing.end())
    if OPEN.search(text) is None:
        return text
    marked = _last_match(ANSWER_OPEN, text)
    ends = re.search(rf"(?:{ANSWER_CLOSE.pattern})\s*$", text, re.IGNORECASE)
    return _keep_only(text, marked.start() if marked and ends else len(text), len(text))


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed(list(pattern.finditer(text))), None)


def _keep_only(text: str, start: int, end: int) -> str:
    return _blank(_blank(text, end, len(text)), 0, start)


def _blank(text: str, start: int, end: int) -> str:
    return text[:start] + " " * (end - start) + text[end:]
