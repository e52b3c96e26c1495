"""Limits of what visitors may ask for, checked on the server before any work is done.

The page may be open to others than its owner: visitors name no file and no model of the machine, and the work of one
request is bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from mmhall.errors import OptionError, PromptError
from mmhall.options import rules
from mmhall.strategies import Composed, Strategy, strategy

MAX_UPLOAD = "25mb"
PROMPT = 2_000
TOKENS = 512
SPEC = 300
STRATEGIES = (1, 4)
OBJECTS, NAME = 24, 40
QUEUE, SESSIONS = 32, 32
_COUNT = 16


def as_data() -> dict[str, int]:
    """Return the limits that a page tells before somebody meets them."""
    most = STRATEGIES[1]
    upload = int(MAX_UPLOAD.removesuffix("mb")) * 1024**2
    return {"prompt": PROMPT, "tokens": TOKENS, "strategies": most, "objects": OBJECTS, "upload_bytes": upload}


def ids(keys: Any) -> list[str]:
    """Check keys of answers; those of one comparison.

    Raises:
        OptionError: They are no list, or too many.
    """
    if not isinstance(keys, list) or len(keys) > STRATEGIES[1]:
        raise OptionError("demo", "ids", keys, f"a list of at most {STRATEGIES[1]} ids of answers")
    return keys


def prompt(text: Any) -> str:
    """Check a visitor's prompt.

    Raises:
        PromptError: It is empty or too long, or holds invalid characters.
    """
    if not isinstance(text, str) or not text.strip():
        raise PromptError("the prompt is empty; ask something, such as what is in the picture")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PromptError("the prompt holds a NUL or half of a surrogate pair, which is not text; type it again")
    if len(text) > PROMPT:
        raise PromptError(f"the prompt has {len(text):,} characters; at most {PROMPT:,} may be asked here")
    return text


def tokens(count: Any) -> int:
    """Check the maximum number of tokens of an answer.

    Raises:
        OptionError: It is not an integer from 1 to `TOKENS`.
    """
    whole = isinstance(count, int | float) and not isinstance(count, bool) and count == count // 1
    if not whole or not 1 <= count <= TOKENS:
        raise OptionError("demo", "max_new_tokens", count, f"an integer from 1 to {TOKENS} here")
    return int(count)


def strategies(specs: Any, owner_specs: Collection[str] = ()) -> tuple[Strategy, ...]:
    """Build the strategies that a visitor names.

    Args:
        specs: Specifications, as `mmhall.strategy` reads them.
        owner_specs: Specifications that the page's owner offers; they may name files and models.

    Raises:
        OptionError: None, too many or equal strategies, or an option that visitors may not set.
        MmhallError: A strategy does not exist, or an option is out of range.
    """
    if isinstance(specs, str) or not isinstance(specs, Sequence) or not STRATEGIES[0] <= len(specs) <= STRATEGIES[1]:
        raise OptionError("demo", "strategies", specs, f"a list of {STRATEGIES[0]} to {STRATEGIES[1]} strategies")
    methods = tuple(_strategy(spec, owner_specs) for spec in specs)
    for method in methods:
        if sum(str(other) == str(method) for other in methods) > 1:
            raise OptionError("demo", "strategies", str(method), "named once; two columns would say the same")
    return methods


def objects(names: Any) -> tuple[str, ...]:
    """Check the objects that a visitor asks about; returns each once.

    Raises:
        OptionError: There are none or too many, or a name is too long or not text.
    """
    listed = names.split(",") if isinstance(names, str) else names
    if not isinstance(listed, Sequence) or not all(isinstance(name, str) for name in listed):
        raise OptionError("demo", "objects", names, "names such as: cup, dining table")
    cleaned = tuple(dict.fromkeys(" ".join(name.split()) for name in listed if name.strip()))
    if not 1 <= len(cleaned) <= OBJECTS:
        raise OptionError("demo", "objects", names, f"1 to {OBJECTS} names, separated by commas")
    for name in cleaned:
        if len(name) > NAME:
            raise OptionError("demo", "objects", name, f"names of at most {NAME} characters")
    return cleaned


def _strategy(spec: Any, owner_specs: Collection[str]) -> Strategy:
    if not isinstance(spec, str) or len(spec) > SPEC:
        raise OptionError("demo", "strategies", spec, f'texts of at most {SPEC} characters, such as "vcd(alpha=0.5)"')
    method = strategy(spec)
    trusted = {str(part) for other in owner_specs for part in parts(strategy(other))}
    for part in parts(method):
        if str(part) not in trusted:
            _check_options(part)
    return method


def parts(method: Strategy) -> tuple[Strategy, ...]:
    """Return the strategies that one combines."""
    return method.parts if isinstance(method, Composed) else (method,)


def _check_options(part: Strategy) -> None:
    """Refuse options that visitors may not set: files or models to open, and counts that multiply the work."""
    for name, rule in rules(type(part)).items():
        value = getattr(part, name)
        if rule.opens and value != rule.general:
            raise OptionError(part.name, name, value, "left to the owner of this page: mmhall demo --strategy")
        if isinstance(value, int) and not isinstance(value, bool) and rule.high is None:
            most = max(_COUNT, rule.general)
            if value > most:
                raise OptionError(part.name, name, value, f"an integer up to {most} here")
