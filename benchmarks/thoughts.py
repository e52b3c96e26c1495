"""Cut the thoughts out of a reasoning model's answer, before any rule reads it.

Marks    Thoughts stand in <think>...</think>, <thinking>, <thought>, <reasoning>, <reflection>, <analysis> or
         <scratchpad>, in [THINK], ◁think▷ or <seed:think>, between <|begin_of_thought|> and <|end_of_thought|>, or in
         the "analysis" channel before the "final" one. Templates that write the opening mark into the prompt leave only
         the closing one in the answer: all before it is thought.
Answer   What is left; where it holds <answer>...</answer>, <final_answer>, <conclusion>, or the same with
         <|begin_of_solution|> or <|begin_of_box|>, only what stands in the last of these.
Rule     All rules read the answer without its thoughts, those of other authors, too: their scripts are older than such
         models, and would read the thoughts. An answer without such marks is read as it is, to the letter.
         Thoughts that never end, or with nothing behind them, leave no answer: by every rule it is unparsed.
"""

from __future__ import annotations

import re

_THOUGHT = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad)"
_OPEN = re.compile(
    rf"<{_THOUGHT}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis<\|message\|>", re.IGNORECASE
)
_CLOSE = re.compile(
    rf"</{_THOUGHT}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>", re.IGNORECASE
)
_ANSWER = r"(?:answer|final_answer|conclusion)"
_ANSWER_OPEN = re.compile(rf"<{_ANSWER}>|<\|begin_of_(?:solution|box)\|>", re.IGNORECASE)
_ANSWER_CLOSE = re.compile(rf"</{_ANSWER}>|<\|end_of_(?:solution|box)\|>", re.IGNORECASE)


def spoken(text: str) -> str:
    r"""Return an answer without its thoughts; one without marks as it is.

    >>> spoken("<think>A cat? No.</think>\nYes"), spoken("A dog, so <answer>No</answer>"), spoken("<think>Yes, but")
    ('Yes', 'No', '')
    """
    kept = blanked(text)
    return kept if kept == text else kept.strip()


def blanked(text: str) -> str:
    """Return an answer with blanks for its thoughts and marks, so that every other character stays in its place.

    >>> blanked("<think>A cat?</think> A dog.")
    '                      A dog.'
    """
    kept = _without_thoughts(text)
    while (opening := _last(_ANSWER_OPEN, kept)) is not None:
        closing = _ANSWER_CLOSE.search(kept, opening.end())
        kept = _only(kept, opening.end(), closing.start() if closing else len(kept))
    return _ANSWER_CLOSE.sub(lambda mark: " " * len(mark[0]), kept)


def silent(text: str) -> bool:
    """Tell whether an answer is thoughts alone: they never end, or nothing is said behind them.

    >>> silent("<think>No, wait"), silent("<think>Hm.</think>"), silent("")
    (True, True, False)
    """
    return bool(text.strip()) and not spoken(text)


def _without_thoughts(text: str) -> str:
    """Blank out thoughts from mark to mark, or to the end where they never end, save an answer marked at the end."""
    while (closing := _CLOSE.search(text)) is not None:
        opening = _OPEN.search(text, 0, closing.start())
        text = _blank(text, opening.start() if opening else 0, closing.end())
    if _OPEN.search(text) is None:
        return text
    marked = _last(_ANSWER_OPEN, text)
    ends = re.search(rf"(?:{_ANSWER_CLOSE.pattern})\s*$", text, re.IGNORECASE)
    return _only(text, marked.start() if marked and ends else len(text), len(text))


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed(list(pattern.finditer(text))), None)


def _only(text: str, start: int, end: int) -> str:
    return _blank(_blank(text, end, len(text)), 0, start)


def _blank(text: str, start: int, end: int) -> str:
    return text[:start] + " " * (end - start) + text[end:]
